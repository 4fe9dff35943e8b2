"""What is no whole table, or would not come back as it was: an error at create, which names the column."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest

import shmkernel as shm
from shmkernel.kinds.tables import outgoing
from tests.helpers import needs

pa = needs("pyarrow")


def texts(ends, data, kind=None):
    """Return an array of texts whose ends and bytes nobody has checked."""
    buffers = [None, pa.py_buffer(np.array(ends, "i4")), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind or pa.string(), len(ends) - 1, buffers)


class Stream:
    """A table of a library that nobody knows."""

    def __init__(self, table):
        self.table = table

    def __arrow_c_stream__(self, schema=None):
        return self.table.__arrow_c_stream__(schema)


BEYOND = texts([0, 10**6, 2], b"ab")
DAMAGED = {
    "offsets": BEYOND,
    "offsets of bytes": texts([0, 10**6, 2], b"ab", pa.binary()),
    "no UTF-8": texts([0, 2, 4], b"\xc3\xa4\xff\xff"),
    "half a character": texts([0, 1, 2], b"\xc3\xa4"),
    "a part": pa.StructArray.from_arrays([BEYOND], ["part"]),
    "a dictionary": pa.DictionaryArray.from_arrays(pa.array([0, 1]), BEYOND),
    "a code": pa.DictionaryArray.from_arrays(pa.array([0, 9]), pa.array(["a"]), safe=False),
    "a code beside a null": pa.DictionaryArray.from_arrays(pa.array([None, 9]), pa.array(["a"]), safe=False),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_column_that_would_end_its_reader_is_an_error_at_create(case, shm_dir):
    """A process that attached it ended with a signal."""
    table = pa.table({"fine": [1, 2], "odd": DAMAGED[case]})
    for value in (table, table.to_batches()[0], table.to_reader(), Stream(table), {"a": table}, [table]):
        with pytest.raises(shm.DamagedError, match=r"column 'odd' .* is damaged"):
            shm.create("x", value)
    assert shm.list() == []


@pytest.mark.parametrize("case", DAMAGED)
def test_a_frame_of_pandas_over_such_a_column_is_an_error_too(case):
    pd = needs("pandas")
    column = pd.Series(pd.arrays.ArrowExtensionArray(pa.chunked_array([DAMAGED[case]])))
    with pytest.raises(shm.DamagedError, match=r"column 'odd' .* is damaged"):
        shm.create("x", pd.DataFrame({"odd": column}))


def test_parts_of_whole_columns_are_whole():
    table = pa.table({"text": ["a", "é", None, "日本"], "more": pa.array(["a", "b", None, "b"]).dictionary_encode()})
    for value in (table, table.slice(1, 2), table.slice(4), texts([1, 2], b"\xffa"), texts([0, 0], b"")):
        assert shm.create("x", value, replace=True).equals(value)


@pytest.mark.parametrize("said", ["no JSON", "3", "[]", '{"index_columns": 3}', '{"index_columns": [[]]}', b"\xff"])
def test_metadata_that_make_no_sense_are_kept_and_ignored(said):
    table = pa.table({"a": [1, 2]}).replace_schema_metadata({"pandas": said})
    for value in (table, table.to_reader(), Stream(table)):
        assert shm.create("x", value, replace=True).equals(table, check_metadata=True)
        assert shm.info("x").type == "2 rows x 1 column"


def test_a_table_without_columns_keeps_its_rows():
    table = pa.table({"a": [1, 2, 3]}).select([])
    pd, pl = needs("pandas"), needs("polars")
    for value in (table, table.to_batches()[0], Stream(table), pd.DataFrame(index=range(3)), pl.DataFrame(height=3)):
        assert shm.create("x", value, replace=True).shape == (3, 0)
        assert shm.info("x").type == "3 rows x 0 columns"
        assert shm.attach("x", as_="arrow").shape == (3, 0)


def test_the_sign_of_a_decimal_zero_is_not_lost():
    pd = needs("pandas")
    with pytest.raises(shm.UnsupportedError, match=r"column 'a' .* -0"):
        shm.create("x", pd.DataFrame({"a": [Decimal("-0.0"), Decimal(1)]}))
    assert str(shm.create("x", pd.DataFrame({"a": [Decimal(0), Decimal(-1)]}))["a"].to_list()[0]) == "0"


@pytest.mark.parametrize("wrap", ["{}", "polars.List({})", "polars.Struct({{'part': {}}})", "polars.Array({}, 2)"])
def test_arrays_of_no_items_of_polars_are_refused_by_column(wrap):
    pl = needs("polars")
    kind = eval(wrap.format("polars.Array(polars.Int8, 0)"), {"polars": pl})
    with pytest.raises(shm.UnsupportedError, match=r"column 'odd' .* no items"):
        shm.create("x", pl.DataFrame({"odd": pl.Series([None], dtype=kind)}))


def test_what_cannot_be_read_again_is_no_damage_of_a_segment(monkeypatch):
    """No segment has the name yet, so no cure may speak of one."""

    def value(*_, **__):
        raise KeyError("odd")

    monkeypatch.setattr(outgoing, "value", value)
    with pytest.raises(shm.UnsupportedError, match=r"a Table cannot .* as a table it cannot .*odd") as it:
        shm.create("x", pa.table({"a": [1]}))
    assert it.value.cures == ()
    assert shm.list() == []


CHANGED = {
    "an offset": "'01:02:03+05'::timetz odd",
    "bits": "'0101'::bit odd, '1'::bit \"q\"\"uoted\"",
    "an overflow": "340282366920938463463374607431768211455::uhugeint odd",
    "in a list": "['0101'::bit] odd",
    "in an array": "array_value('0101'::bit) odd",
    "in a struct": "{'a': {'b': '01:02:03+05'::timetz}} odd",
    "in a map": "map {'a': '1'::bit} odd",
    "in a union": "union_value(k := '1'::bit) odd",
}


@pytest.mark.parametrize("case", CHANGED)
def test_values_of_duckdb_that_arrow_would_change_are_refused_with_a_cast(case):
    query = f"select 1 fine, {CHANGED[case]}"
    with needs("duckdb").connect() as connection:
        x = connection.sql(query)
        with pytest.raises(
            shm.UnsupportedError, match=r"column 'odd' .* other values .* As text: x\.project"
        ) as caught:
            shm.create("x", x)
        cured = eval(caught.value.expression)
        assert shm.create("x", cured).fetchall() == cured.fetchall()
        connection.sql("set arrow_lossless_conversion = true")
        shm.create("x", connection.sql(query), replace=True)
        rows = shm.attach("x", as_="duckdb").fetchall()
        assert rows == connection.sql(query).fetchall()
