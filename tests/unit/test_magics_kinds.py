"""The magics with lists and blocks of bytes."""

from __future__ import annotations

import pickle

import pytest

import shmkernel as shm
from tests.helpers import needs, python


def test_a_list_of_the_notebook_becomes_the_shared_one(notebook):
    told = notebook("people = ['Ada', 1815, None]\n%shm_create people")
    assert told.startswith("people: list 3 items, ")
    assert type(notebook["people"]) is shm.ShareableList
    assert list(notebook["people"]) == ["Ada", 1815, None]
    assert notebook["people"] is shm.attach("people")


FIRST = """
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config
shell = InteractiveShell.instance(config=Config({"HistoryManager": {"enabled": False}}))
shell.run_line_magic("load_ext", "shmkernel")
shell.run_cell("people = ['Ada', 1815, None]\\n%shm_create people")
print(type(shell.user_ns["people"]))
"""


def test_a_list_is_the_shared_one_after_the_first_magic_of_a_kernel():
    assert python(FIRST).stdout.endswith("<class 'shmkernel.stdlib.shareable_list.ShareableList'>\n")


LISTS = {"list": """--list "[1, 'a', None]\"""", "tuple": """--list "(1,'a',None)\"""", "from": "--from [1, 'a', None]"}


@pytest.mark.parametrize("flag", LISTS.values(), ids=LISTS)
def test_a_list_can_be_written_out(notebook, flag):
    notebook(f"%shm_create sl {flag}")
    assert list(notebook["sl"]) == [1, "a", None]
    assert "It replaces the earlier one" in notebook(f"%shm_create sl {flag}")


def test_an_empty_dict_is_made_and_filled_by_name(notebook):
    assert notebook("%shm_create cfg --dict").startswith("cfg: dict 0 keys, ")
    notebook("cfg['rate'] = 0.1")
    assert shm.attach("cfg") == {"rate": 0.1}
    assert "shared already" in notebook("%shm_create cfg")


def test_a_dict_of_the_notebook_becomes_the_shared_one(notebook):
    assert notebook("cfg = {'rate': 0.1}\n%shm_create cfg").startswith("cfg: dict 1 key, ")
    assert notebook["cfg"] is shm.attach("cfg")
    notebook("%shm_create other --from {'a': [1]}\nother['a'] += [2]")
    assert shm.attach("other") == {"a": [1, 2]}


@pytest.mark.parametrize(("size", "count"), [("100", 100), ("64K", 65536), ("1.5 MiB", 3 << 19), ("2kb", 2048)])
def test_a_block_is_made_of_a_size(notebook, size, count):
    assert notebook(f'%shm_create block --size "{size}"').startswith("block: raw bytes, ")
    assert notebook["block"].size == count
    notebook("block.buf[:3] = b'abc'")
    assert bytes(shm.attach("block").buf[:3]) == b"abc"


def test_bytes_and_a_size_leave_room(notebook):
    notebook("%shm_create block --from b'abc' --size 1K")
    assert bytes(notebook["block"].buf[:4]) == b"abc\0"


def test_the_kind_can_be_asked_for(notebook):
    notebook("%shm_create sl --from range(3) --kind list\n%shm_create raw --from np.arange(3) --kind raw")
    assert list(notebook["sl"]) == [0, 1, 2]
    assert notebook["raw"].size == 24


@pytest.mark.parametrize("name", ["sl", "block"])
def test_what_is_shared_already_stays_as_it_is(notebook, name):
    notebook("%shm_create sl --from [1]\n%shm_create block --size 8")
    before = notebook[name]
    assert "shared already" in notebook(f"%shm_create {name}")
    assert notebook[name] is before


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("x --list [1", "in quotes"),
        ("x --list open(1)", "in quotes"),
        ("x --list 5", "cannot become a list"),
        ("x --dict --shape 3", "leave out"),
        ("x --dict --from {}", "leave out --from {}"),
        ("x --list [1] --shape 3", "leave out --shape 3"),
        ("x --list [1] --from y", "leave out --from y"),
        ("x --size 64Q", "64K"),
        ("x --size 0", "0 bytes"),
        ("x --size 64K --shape 3", "one of them"),
        ("x --from [1] --size 5", "takes no size"),
        ("x --from range(3)", "asarray"),
        ("x --from (n for n in [1])", "list"),
        ("x --from 5 --kind dictt", "Known kinds"),
        ("x --list [18446744073709551616]", "64 of an item"),
    ],
    ids=lambda text: text.strip().replace(" ", "_"),
)
def test_a_mistake_takes_one_line_and_makes_nothing(notebook, line, message):
    error = notebook.fails(f"%shm_create {line}")
    assert message in str(error)
    assert shm.list() == []


def test_lists_and_blocks_are_listed_attached_and_closed(notebook):
    notebook("%shm_create sl --from [1, 'a']\n%shm_create block --size 64K")
    table = notebook("%shm_list")
    assert "2 items" in table
    assert "64.0 KiB" in table
    assert notebook("%shm_attach sl --as other").startswith("other = sl: list 2 items")
    notebook("del other\n%shm_close sl block")
    assert "sl" not in notebook
    assert "block" not in notebook
    assert notebook("%shm_attach sl").startswith("sl: list 2 items")
    assert list(notebook["sl"]) == [1, "a"]


def test_a_frame_is_shared_and_attached_in_another_form(notebook):
    pd, pl = needs("pandas"), needs("polars")
    notebook("import pandas as pd\ntrades = pd.DataFrame({'price': [9.5, 20.0]})")
    assert "table 2 rows x 1 column" in notebook("%shm_create trades")
    assert isinstance(notebook["trades"], pd.DataFrame)
    assert "changes stay private" in notebook("%shm_attach trades")
    notebook("%shm_attach trades --as polars --overwrite")
    assert isinstance(notebook["trades"], pl.DataFrame)
    notebook("%shm_attach trades --overwrite")
    notebook("trades['tax'] = trades['price'] / 5")
    for again in ("%shm_create trades", "trades.loc[0, 'tax'] = 1.0\n%shm_create trades --replace"):
        assert "2 rows x 2 columns" in notebook(again)
    assert shm.attach("trades", as_="arrow")["tax"].to_pylist() == [1.0, 4.0]
    notebook("%shm_attach trades --as polars --overwrite")
    notebook("more = trades.head(1)\n%shm_create more")
    notebook("%shm_attach trades more --as arrow --overwrite")
    assert [notebook[name].num_rows for name in ("trades", "more")] == [2, 1]
    notebook("%shm_attach trades --as frame")
    assert isinstance(notebook["frame"], pd.DataFrame)
    assert "does not change" in str(notebook.fails("%shm_attach trades --mode r+ --overwrite"))


def test_a_text_is_shared_and_the_cell_can_run_again(notebook):
    assert notebook('%shm_create t --from "a text"').startswith("t: object 'a text', ")
    assert "It replaces the earlier one" in notebook('%shm_create t --from "another"')
    assert notebook("%shm_attach t").startswith("t: object 'another', ")
    assert notebook["t"] == "another"
    assert "no longer the shared one" not in notebook("%shm_list")


def test_a_variable_that_was_set_to_something_else_is_not_overwritten(notebook):
    notebook("%shm_create rows --from [[1, 2], [3]]\nrows = [[1, 2], [3]]")
    assert "your variable rows is something else" in str(notebook.fails("%shm_attach rows"))
    assert "no longer the shared one" in notebook("%shm_list")


def test_none_is_not_attached_already(notebook):
    notebook("%shm_create x --from None --kind object\ndel x")
    assert "already" not in notebook("%shm_attach x")
    assert notebook["x"] is None


def test_a_text_is_closed_like_anything_else(notebook):
    notebook('%shm_create t --from "a text" --lifetime attached')
    assert shm.info("t").attached
    assert notebook("%shm_close t") == "t: closed here. No segment has this name any more\n"
    assert "t" not in notebook
    assert "not attached here" in str(notebook.fails("%shm_close t"))


def test_an_object_that_was_changed_is_shared_anew(notebook):
    notebook("import decimal\nvalues = {decimal.Decimal(1)}\n%shm_create values\nvalues.add(2)\n%shm_create values")
    assert shm.attach("values") == {1, 2}


def test_a_mapping_becomes_a_snapshot_when_asked(notebook):
    assert notebook("cfg = {'rate': 0.1}\n%shm_create cfg").startswith("cfg: dict 1 key, ")
    assert notebook("%shm_create cfg --from {'rate': 0.1} --kind object --overwrite").startswith(
        "cfg: object dict of 1, "
    )


def test_an_object_says_how_much_each_process_copies_where_that_is_much(notebook):
    notebook("import numpy as np\nbig = [np.zeros(300_000), 'a' * 3_000_000]\nsmall = [np.zeros(300_000), 'a']")
    sizes = "object list of 2, 2.3 MiB shared, 2.9 MiB copied"
    assert notebook("%shm_create big").startswith(f"big: {sizes}.\nShared until this kernel ends. ")
    assert notebook("%shm_attach big --as other").startswith(f"other = big: {sizes},\n    from this notebook, ")
    assert notebook("%shm_create small").startswith("small: object list of 2, 2.3 MiB.\n")


def test_a_model_is_pickled_by_consent(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    notebook("class Model:\n    x = 1\nmodel = Model()")
    assert "--pickle (in Python allow_pickle=True)" in str(notebook.fails("%shm_create model"))
    assert notebook("%shm_create model --pickle").startswith("model: object Model, pickled, ")
    assert notebook("%shm_attach model\nassert isinstance(model, Model)").startswith("model: object Model, pickled, ")
    notebook("%config ShmMagics.allow_pickle = 'never'")
    assert "not allowed here" in str(notebook.fails("%shm_attach model"))
    notebook("%config ShmMagics.allow_pickle = 'signed'")
    (tmp_path / "shmkernel/key").unlink()
    error = str(notebook.fails("%shm_attach model"))
    assert error.endswith("If you trust who made it: %shm_attach model --pickle")
    assert notebook("%shm_attach model --pickle").startswith("model: object Model, pickled, ")


PLAIN = {
    "masked array": ("np.ma.array([1, 2], mask=[0, 1])", ""),
    "large number in a list": ("[1, 2**70, 'x']", ""),
    "text in a list that is no UTF-8": ("['\\udcff', 1]", ""),
    "fraction in a list": ("[1, fractions.Fraction(1, 3)]", "--pickle"),
    "function in a dict": ("{'a': len}", "--pickle"),
    "array of objects": ("np.array([1, 'x'], object)", "--pickle"),
}


@pytest.mark.parametrize("value", PLAIN)
def test_what_its_own_kind_refuses_becomes_an_object_as_in_python(value, notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    code, flag = PLAIN[value]
    notebook(f"import fractions, numpy as np, shmkernel as shm\nvalue = {code}\nbefore = repr(value)")
    assert notebook(f"%shm_create value {flag}").startswith("value: object ")
    assert notebook("value = shm.attach('value')\nprint(repr(value) == before)") == "True\n"


def test_a_variable_in_the_way_is_proposed_only_if_it_can_be_shared(notebook):
    notebook("zz = 'a text'\nact = len")
    assert "Share it: %shm_create zz" in str(notebook.fails("%shm_create zz --shape 3"))
    assert "Share it" not in str(notebook.fails("%shm_create act --shape 3"))


def test_a_pickle_is_loaded_when_its_flag_is_given(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))  # of the key that signs it
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(range(3)))
    error = str(notebook.fails(f"%shm_load model {tmp_path}/model.pkl"))
    assert error.endswith("model.pkl is a pickle. To load it runs its code. If you trust who made it: "
                          "--pickle (in Python allow_pickle=True)")  # fmt: skip
    assert "model: object range, pickled" in notebook(f"%shm_load model {tmp_path}/model.pkl --pickle")
    assert notebook["model"] == range(3)
    assert "written to" in notebook(f"%shm_save model {tmp_path}/again.pkl")
    assert pickle.loads((tmp_path / "again.pkl").read_bytes()) == range(3)
    notebook("%config ShmMagics.allow_pickle = 'never'")
    assert "not allowed here" in str(notebook.fails(f"%shm_save model {tmp_path}/again.pkl"))
    assert "written to" in notebook(f"%shm_save model {tmp_path}/again.pkl --pickle")
    notebook("%config ShmMagics.allow_pickle = 'signed'")
