"""The page of what has been tried keeps the sections of parts that a run leaves out."""

from tests.prove.report import Report, page


def test_a_part_has_its_section_made_anew_and_the_others_stay():
    first, second = Report("Storm", 60), Report("Life", 10)
    first.add("programs", 1_000)
    second.add("rounds", 2_000)
    old = page("", [first, second], {}).replace("| programs", "Mended since.\n\n| programs")
    again = Report("Life", 20)
    again.add("rounds", 3_000)
    new = page(old, [again], {"Life": ["", "a picture"]})
    assert new.startswith(old[: old.index("## Life")])
    assert "| rounds | 3,000 | held |\n\na picture\n" in new
    assert "2,000" not in new
    assert page(new, [], {}) == new
