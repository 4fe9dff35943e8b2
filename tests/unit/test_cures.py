"""What an error says to run next is a line that works when pasted: each is provoked, and what it proposes is run.

Each is run in its place: in a notebook with the magics, in Python, in a shell.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import os
import pathlib
import platform
import re
import shutil
import subprocess
import sys
import threading
import tomllib
import typing
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import shmkernel as shm
from shmkernel import cli, errors
from shmkernel._core import paths
from shmkernel.hosts import offering
from shmkernel.notebook.magics import ShmMagics
from tests.helpers import PATIENCE, Child, needs
from tests.unit.elsewhere import elsewhere

ROOT = Path(__file__).parent.parent.parent
PROPOSAL = re.compile(
    r"(?:: |\bunder )((?:%%?shm_|shmkernel |import shmkernel|shm\.|rmdir |rm ).*)", re.DOTALL
)  # it ends its sentence
SENTENCE = re.compile(r"\. (?=[A-Z])|, (?=which )")
FLAG = re.compile(r"--[a-z]+(?![a-z-])(?: (?:r\+|\d+(?:[.,]\d+)*[A-Z]?|\"[^\"]*\"|\[[^]]*\]))?")  # with an example

X = "%shm_create x --shape 3"
CASES = {  # cells that succeed, and one that fails
    "no such segment": ([], "%shm_attach nope"),
    "one of a similar name": ([X], "%shm_attach xx"),
    "no such variable": ([], "%shm_create zz"),
    "no expression": ([], "%shm_create zz --from"),
    "a name that cannot be": (["Δt = np.ones(3)"], "%shm_create Δt"),
    "an unknown flag": ([], "%shm_create zz --shapes 3"),
    "no shape": ([], "%shm_create zz --shape 3;4"),
    "no list": (["a = b = 1"], "%shm_create zz --list nope"),
    "no size": ([], "%shm_create zz --size much"),
    "a variable in the way of an attach": ([X, "x = 'precious'"], "%shm_attach x"),
    "and of one under another name": ([X, "y = 'precious'"], "%shm_attach x --as y"),
    "a variable in the way of a create": (["zz = np.ones(2)"], "%shm_create zz --shape 3"),
    "no variable of this name": (["shm.create('ds.v', shape=3).sum()"], "%shm_attach ds.v"),
    "not attached": ([], "%shm_close zz"),
    "attached under another name": ([X, "y = x"], "%shm_close y"),
    "cut short": ([X, "path = shm.info('x').path", "del x", "os.truncate(path, 90)"], "%shm_attach x"),
    "bytes of no kind": (["pathlib.Path(paths.path_of('x')).write_bytes(b'Dear segment')"], "%shm_attach x"),
    "a directory": (["os.mkdir(paths.path_of('x'))"], "%shm_attach x"),
    "a FIFO": (["os.mkfifo(paths.path_of('x'))"], "%shm_attach x"),
    "a link": (["os.symlink('/nowhere', paths.path_of('x'))"], "%shm_attach x"),
    "nothing to publish": ([X, "%shm_attach x --as safe --mode r"], "shm.publish(safe)"),
    "a stream that is read only": (
        ["shm.create('x', ring=4, shape=2).name", "r = shm.attach('x', mode='r')"], "r.put(np.ones(2))"
    ),
    "a stream without private changes": (["%shm_create x --ring 4 --shape 2"], "%shm_attach x --as y --mode c"),
    "a new stream without private changes": ([], "%shm_create x --ring 4 --shape 2 --mode c"),
    "a dict that is read only": (["%shm_create x --dict", "d = shm.attach('x', mode='r')"], "d['a'] = 1"),
    "a dict without private changes": (["%shm_create x --dict"], "%shm_attach x --as y --mode c"),
    "a new dict without private changes": ([], "%shm_create x --dict --mode c"),
    "no snapshot": (["x = shm.create('x', [1, 'a'])"], "shm.snapshot('x')"),
    "a damaged sync file": (
        [X, "pathlib.Path(paths.runtime('sync', f'shmk-{os.geteuid()}-x')).write_bytes(b'Dear lock')"], "%shm_publish x"
    ),
    "a version that is none": ([X], "shm.wait('x', since='a')"),
    "a block that is closed": (["import copy", "b = shm.create('x', size=9)", "b.close()"], "copy.copy(b)"),
    "a lock in a line": ([X], "%shm_lock x"),
    "a folder that is missing": (["os.environ['SHMKERNEL_DIR'] += '/missing'"], "%shm_create zz --shape 3"),
}  # fmt: skip

Y = "x = shm.create('x', shape=3)"
SCRIPTS = {  # lines that succeed, and one that fails
    "no such segment": ([], "shm.attach('nope')"),
    "one of a similar name": ([Y], "shm.unlink('xx')"),
    "not attached": ([], "shm.close('zz')"),
    "a name that this process has given": ([Y], "shm.create('x', 1.5)"),
    "cut short": ([Y, "path = shm.info('x').path", "del x", "os.truncate(path, 90)"], "shm.attach('x')"),
    "bytes of no kind": (["pathlib.Path(paths.path_of('x')).write_bytes(b'Dear segment')"], "shm.attach('x')"),
    "a directory": (["os.mkdir(paths.path_of('x'))"], "shm.attach('x')"),
    "a FIFO": (["os.mkfifo(paths.path_of('x'))"], "shm.attach('x')"),
    "nothing to publish": ([Y, "safe = shm.attach('x', mode='r')"], "shm.publish(safe)"),
    "a stream that is read only": (
        ["shm.create('x', ring=4, shape=2).name", "r = shm.attach('x', mode='r')"], "r.put([1, 2])"
    ),
    "a stream without private changes": (["x = shm.create('x', ring=4, shape=2)"], "shm.attach('x', mode='c')"),
    "a stream of no shape": ([], "shm.create('x', ring=4)"),
    "a dict that is read only": (["shm.create('x', {})", "d = shm.attach('x', mode='r')"], "d['a'] = 1"),
    "a dict without private changes": (["x = shm.create('x', {})"], "shm.attach('x', mode='c')"),
    "no snapshot": (["x = shm.create('x', [1, 'a'])"], "shm.snapshot('x')"),
    "a version that is none": ([Y], "shm.wait('x', since='a')"),
    "a block that is closed": (["import copy", "b = shm.create('x', size=9)", "b.close()"], "copy.copy(b)"),
    "a folder that is missing": (["os.environ['SHMKERNEL_DIR'] += '/missing'"], "shm.create('zz', shape=3)"),
}  # fmt: skip
OPTIONS = re.compile(r": ([a-z]+=\S.*)$")
NAMES = [
    "/psm_x",
    "/a b",
    "/it's",
    '/say "hi"',
    "/$HOME {n}",
    "/#1; exit 3",
    "/-x",
    "/what?",
    "/a\\",
    "/a\nb",
    "/\udcff",
]


def python(line, names):
    """Run a line of Python."""
    exec(line, names)


def shell_line(line):
    """Run a line of a shell."""
    subprocess.run(line, shell=True, check=True)  # noqa: S602  as one that is pasted


def in_a_shell(lines, monkeypatch):
    """Run lines in a real shell, with the command that is installed."""
    monkeypatch.setenv("PATH", f"{os.path.dirname(sys.executable)}:{os.environ['PATH']}")
    script = "\n".join(["set -e", *lines])
    subprocess.run(["bash"], input=os.fsencode(script), capture_output=True, check=True, timeout=PATIENCE)


def proposals(text):
    """Return the commands in a message."""
    found = (PROPOSAL.search(sentence.removesuffix(".")) for sentence in SENTENCE.split(text))
    return [match[1] for match in found if match]


@pytest.fixture
def shell(notebook, tmp_path, monkeypatch):
    """A notebook in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    notebook("import os, pathlib, shmkernel as shm\nfrom shmkernel._core import paths")
    return notebook


@pytest.mark.parametrize("case", CASES)
def test_what_an_error_proposes_works_when_pasted(case, shell, shm_dir, monkeypatch):
    before, cell = CASES[case]
    assert [ran.text for ran in map(shell.run, before) if ran.error] == []
    error = shell.run(cell).error
    assert isinstance(error, shm.ShmError), error
    lines = proposals(error.message)
    if cell.startswith("%"):
        magic = cell.partition(" ")[0]
        known = getattr(ShmMagics, magic.lstrip("%")).parser.flags()
        flags = [flag for flag in FLAG.findall(error.message) if flag not in cell]
        assert {flag.partition(" ")[0] for flag in flags} <= {*known}
        for flag, _, value in (flag.partition(" ") for flag in flags):
            if value:
                other = re.sub(rf"{flag} \S+", f"{flag} {value}", cell)
                lines.append(other if other != cell else f"{magic} zz {flag} {value}")
    assert lines, error.message
    for line in lines:
        if line.startswith("r"):
            shell_line(line)
        else:
            shell(line + "\npass" * line.startswith("%%"))
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    shell("%reset -f")
    for one in shm.list():
        shm.unlink(one.name)


@pytest.mark.parametrize("case", SCRIPTS)
def test_what_an_error_in_a_script_proposes_works_there(case, shm_dir, monkeypatch):
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    before, failing = SCRIPTS[case]
    script = {"os": os, "pathlib": pathlib, "shm": shm, "paths": paths}
    for line in before:
        python(line, script)
    with pytest.raises(shm.ShmError) as caught:
        python(failing, script)
    message = str(caught.value)
    assert "%" not in message
    assert "--" not in message
    lines = proposals(message)
    for options in OPTIONS.findall(message):
        other = re.sub(rf", {options.partition('=')[0]}=[^,)]+", "", failing)
        lines.append(f"{other[:-1]}, {options})")
    assert lines, message
    for line in lines:
        if line.startswith("r"):
            shell_line(line)
        elif line.startswith("shm.lock"):
            python(f"with {line}: pass", script)
        else:
            python(line.replace("ring=4, ring", "ring"), script)
    script.clear()
    monkeypatch.setenv("SHMKERNEL_DIR", str(shm_dir))
    for segment in shm.list():
        shm.unlink(segment.name)


def in_the_way(name):
    """Put what is no segment under a name, and return the error of using it."""
    os.symlink("/nowhere", paths.path_of(name))
    with pytest.raises(shm.DamagedError) as caught:
        shm.attach(name)
    return caught.value


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_needs_quotes_has_them_in_a_notebook(name, shell):
    (line,) = proposals(str(in_the_way(name)))
    shell(line)
    assert not os.path.lexists(paths.path_of(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_needs_quotes_has_them_in_python(name):
    (line,) = proposals(str(in_the_way(name)))
    python(line, {"shm": shm})
    assert not os.path.lexists(paths.path_of(name))


def test_names_that_need_quotes_have_them_in_a_shell(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(errors, "word", cli.in_shell)
        lines = [line for name in NAMES for line in proposals(str(in_the_way(name)))]
    assert len(lines) == len(NAMES)
    in_a_shell(lines, monkeypatch)
    assert not [name for name in NAMES if os.path.lexists(paths.path_of(name))]


def test_a_folder_that_needs_quotes_has_them(shm_dir, monkeypatch):
    folder = shm_dir / "it's a folder"
    folder.mkdir()
    monkeypatch.setenv("SHMKERNEL_DIR", str(folder))
    os.mkdir(paths.path_of("x"))
    with pytest.raises(shm.DamagedError) as caught:
        shm.attach("x")
    (line,) = proposals(str(caught.value))
    shell_line(line)
    assert not os.path.lexists(paths.path_of("x"))
    shutil.rmtree(folder)


def test_what_no_machine_has_room_for_costs_nobody_a_segment(shell):
    shell.run(X)
    error = shell.run("%shm_create big --shape 1000000,1000000,100").error
    assert isinstance(error, shm.FullError)
    assert "SHMKERNEL_DIR" in error.message
    assert "unlink" not in error.message
    assert "docker" not in error.message


@pytest.mark.parametrize(
    "line", ["info nope", "info xx", "unlink nope", "keep nope", "save nope nope.npy", "save x x.npy", "load x y.npy"]
)
def test_what_an_error_in_a_terminal_proposes_works_there(line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with elsewhere(lambda: shm.create("x", shape=3)):
        shm.save("x", "y.npy")
        if line.startswith("save x"):
            os.truncate(shm.info("x").path, 90)
        assert cli.main(line.split()) == 1
        message = capsys.readouterr().err.strip()
        assert "%" not in message
        lines = proposals(message) + [f"shmkernel {line} {flag}" for flag in FLAG.findall(message)]
        assert lines, message
        in_a_shell(lines, monkeypatch)
        for one in shm.list():
            shm.unlink(one.name)


def test_what_other_hosts_share_is_listed_in_each_place(shell, monkeypatch, capsys):
    other = errors.NotFoundError("no host shares 'x'", offering.SHARED)
    (magic,) = proposals(str(other))
    assert "If this one has not joined others: %shm_join" in shell.run(magic).text
    python(errors.in_python(other.cures[0]), {"shm": shm})
    with monkeypatch.context() as patch:
        patch.setattr(errors, "word", cli.in_shell)
        (command,) = proposals(str(other))
    in_a_shell([command], monkeypatch)


class Part(np.ndarray):
    """One that is no plain array."""


class Table:
    """What a DataFrame has."""

    def to_numpy(self):
        return np.eye(2)


class Texts(Table):
    """A column of texts: its array holds objects."""

    def to_numpy(self):
        return np.array(["a", None], object)

    def to_list(self):
        return ["a", None]


def tensor(values):
    """Make what behaves as a tensor of torch does: numpy cannot take bfloat16, nor one that needs a gradient."""

    class Tensor:
        def detach(self):
            return self

        cpu = detach

        def float(self):
            return tensor(values.astype("f4"))

        def __array__(self, *_, **__):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad")

        def __len__(self):
            return len(values)

        def __index__(self):
            raise TypeError("only integer tensors of a single element can be converted to an index")

        __float__ = __index__

        def numpy(self):
            if values.dtype == ml_dtypes.bfloat16:
                raise TypeError("Got unsupported ScalarType BFloat16")
            return values

    Tensor.__module__ = "torch"
    return Tensor()


def on_a_device(library):
    """Make what behaves as an array of torch or cupy in a GPU's memory does."""

    class Tensor:
        def __dlpack_device__(self):
            return (2, 0)

        def __dlpack__(self, **_):
            raise BufferError("it is not there")

        def detach(self):
            return self

        def cpu(self):
            return self

        def numpy(self):
            return np.ones(3)

        get = numpy

        def __array__(self, *_, **__):
            raise TypeError("convert it by hand")

    Tensor.__module__ = library
    return Tensor()


def enumeration(dtype):
    """Make a dtype that h5py writes for an enumeration."""
    return np.dtype(dtype, metadata={"enum": {"RED": 0}})


OBJECTS = np.array([(1, "a")], [("a", "i4"), ("b", "O")])
BERLIN = dt.timezone(dt.timedelta(hours=1))
VALUES = {
    "texts as objects": (np.array(["a", "bc"], object), {}, "x.astype(str)"),
    "bytes as objects": (np.array([b"a"], object), {}, "x.astype(bytes)"),
    "numbers as objects": (np.array([1, 2.5], object), {}, "x.astype(float)"),
    "ints as objects": (np.array([1, 2**60 + 1], object), {}, "x.astype(int)"),
    "large ints as objects": (np.array([2**70 + 1], object), {}, "{'x': x.tolist()}"),
    "objects of all sorts": (np.array([1, "a", None], object), {}, "x.tolist()"),
    "lists as objects": (np.array([[1], [2, 3]], object), {}, "x.tolist()"),
    "rows of objects": (np.array([["a", 1], ["b", None]], object), {}, "{'x': x.tolist()}"),
    "objects in fields": (OBJECTS, {}, "{field: x[field].tolist() for field in x.dtype.names}"),
    "masked objects": (np.ma.masked_array(["a", None], dtype=object), {}, "x.tolist()"),
    "a subclass": (np.zeros(2).view(Part), {}, "numpy.asarray(x)"),
    "metadata": (np.zeros(2, enumeration("i4")), {}, "x.view(x.dtype.str)"),
    "metadata in a field": (
        np.zeros(2, [("a", enumeration("i4"))]),
        {},
        "x.astype([(field, x.dtype[field].str) for field in x.dtype.names])",
    ),
    "overlapping fields": (
        np.zeros(2, {"names": ["a", "b"], "formats": ["i4", "i2"], "offsets": [0, 2]}),
        {},
        "x.astype([(field, x.dtype[field]) for field in x.dtype.names])",
    ),
    "bfloat16": (np.ones(3, ml_dtypes.bfloat16), {}, "x.astype('float32')"),
    "one bfloat16": (ml_dtypes.bfloat16(1), {}, "x.astype('float32')"),
    "int4": (np.ones(3, ml_dtypes.int4), {}, "x.astype('float32')"),
    "a tensor": (tensor(np.ones(3, "f4")), {}, "x.detach().cpu().numpy()"),
    "a tensor on a device": (on_a_device("torch"), {}, "x.detach().cpu().numpy()"),
    "an array on a device": (on_a_device("cupy"), {}, "x.get()"),
    "a tensor of bfloat16": (tensor(np.ones(3, ml_dtypes.bfloat16)), {}, "x.detach().cpu().float().numpy()"),
    "a table": (Table(), {}, "x.to_numpy()"),
    "a column of texts": (Texts(), {}, "x.to_list()"),
    "a text as raw bytes": ("a text", {"kind": "raw"}, "x.encode()"),
    "a list as raw bytes": ([1, 2], {"kind": "raw"}, "bytes(x)"),
    "a range": (range(3), {}, "numpy.asarray(x)"),
    "a generator": ((n for n in range(3)), {}, "list(x)"),
    "a row whose class cannot be found": (typing.NamedTuple("Row", [("a", int), ("b", str)])(1, "b"), {}, "list(x)"),
    "a tuple that says it has other items": (platform.uname(), {}, "list(x)"),
    "a deque": (collections.deque([1, 2.5]), {}, "numpy.asarray(x)"),
    "a deque that numpy would make texts of": (collections.deque([1, "a"]), {}, "list(x)"),
    "a deque whose texts numpy would cut": (collections.deque(["a\0", "b"]), {}, "list(x)"),
}  # fmt: skip
if hasattr(np.dtypes, "StringDType"):
    VALUES["StringDType"] = (np.array([["a"]], np.dtypes.StringDType()), {}, "x.astype(object).astype(str)")


@pytest.mark.parametrize("case", VALUES)
def test_what_an_error_makes_of_a_value_can_be_shared(case):
    value, options, expression = VALUES[case]
    proposed_and_works(value, expression, **options)


def proposed_and_works(value, expression, **options):
    """Share a value that is refused in the form that the error proposes; and the one that it puts first."""
    with pytest.raises(shm.ShmError) as caught:
        shm.create("x", value, **options)
    assert re.search(rf": {re.escape(expression)}(?=$|\. )", caught.value.message), caught.value.message
    for one in {expression, caught.value.expression}:
        if not one.startswith("list") or not hasattr(value, "__next__"):
            shared = shm.create("x", eval(one, {"x": value, "numpy": np}), **options)
            assert not isinstance(value, collections.deque) or list(shared) == list(value)
            shm.unlink("x")


@pytest.mark.parametrize(
    "value",
    ["a text", "\ud800", [[1, 2], [3]], [[1, "a"]], [{"a": 1}], [2**63], 2**70, {1}, {(1, 2)},
     dt.date(2020, 1, 1), dt.timedelta(1), dt.datetime(2020, 1, 1, tzinfo=BERLIN), decimal.Decimal("0.1"),
     np.ma.masked_array([1, 2], [False, True]), np.eye(2).view(np.matrix)],
)  # fmt: skip
def test_what_needed_another_form_once_is_shared_as_it_is(value):
    made = shm.create("x", value)
    assert type(made) is type(value)
    assert np.array_equal(made, value) if isinstance(value, np.ndarray) else made == value


@pytest.mark.parametrize("value", [len, int, ..., [len], np.array([len], object), {"a": len}, {1: object()}])
def test_what_can_only_be_pickled_is_when_the_error_s_cure_is_followed(value, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(shm.UnsupportedError, match=r"to attach it runs code: allow_pickle=True$") as caught:
        shm.create("x", value)
    assert type(shm.create("x", value, **caught.value.cures[-1].options)) is type(value)


def test_a_mapping_that_holds_more_than_a_dict_can_is_proposed_as_a_snapshot():
    value = {"a": np.ma.masked_array([1, 2])}
    with pytest.raises(shm.UnsupportedError, match=r"does not change, can be shared: kind='object'$") as caught:
        shm.create("x", value)
    assert type(shm.create("x", value, **caught.value.cures[-1].options)) is dict


LOCK = threading.Lock()


@pytest.mark.parametrize("value", [LOCK, [LOCK], np.array([LOCK], object), sys._getframe()])
def test_for_what_cannot_be_shared_in_any_form_no_cure_is_made_up(value):
    with pytest.raises(shm.UnsupportedError, match=r"Shared are tables, arrays.*and so on$") as caught:
        shm.create("x", value)
    assert caught.value.expression is None


def test_a_cure_is_offered_once_where_the_kind_is_given():
    with pytest.raises(shm.UnsupportedError) as caught:
        shm.create("x", [object()], kind="object")
    assert [cure.options for cure in caught.value.cures] == [{"allow_pickle": True}]


def test_without_a_value_the_error_says_what_to_give():
    with pytest.raises(shm.UnsupportedError, match=r"nothing to share\. Give a value, or a shape"):
        shm.create("x")


@pytest.mark.parametrize(
    ("expression", "proposed"),
    [
        ("x", "x.tolist()"),
        ("x[1:]", "(x[1:]).tolist()"),
        ("d.x", "d.x.tolist()"),
        ("np.array([1, None]) if d else 0", "(np.array([1, None]) if d else 0).tolist()"),
        ("range(3)", "numpy.asarray((range(3)))"),
    ],
)
def test_what_cannot_be_shared_from_an_expression_is_proposed_by_that_expression(notebook, expression, proposed):
    notebook("import types\nx = np.array(['a', None], object)\nd = types.SimpleNamespace(x=x)")
    message = str(notebook.fails(f"%shm_create people --from {expression}"))
    line = f"%shm_create people --from {proposed}"
    assert f": {proposed}. " in message
    assert f" So: {line}. " in message
    assert "people." not in message
    notebook(line)


def test_a_variable_of_another_name_is_proposed_by_its_own():
    with pytest.raises(shm.UnsupportedError, match=r"numpy.asarray\(v\)"):
        shm.create("ds.v", range(3))


def most_memory():
    """Return the most memory that this process has had, in bytes; a forked child begins with what it has."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024


def test_to_look_for_a_cure_takes_no_second_copy_of_a_large_value():
    endless = np.broadcast_to(np.array("a", object), (10**6, 10**6))
    values = endless, range(10**12), np.empty((2**40, 0)), [None, len] * 10**6

    def look(connection):
        before = most_memory()
        for value in values:
            with pytest.raises(shm.UnsupportedError):
                shm.create("x", value)
        connection.send(most_memory() - before)

    with Child(look) as child:
        assert child.hear() < 256 << 20


@pytest.mark.parametrize("form", ["lil", "dok"])
def test_a_sparse_matrix_of_lists_or_keys_is_shared_as_another(form):
    sparse = needs("scipy.sparse")
    value = sparse.random(5, 4, 0.5, format=form)
    proposed_and_works(value, "x.tocsr()")
    proposed_and_works(value, "x.toarray()")


@pytest.mark.parametrize("form", ["csr", "dok"])
def test_a_sparse_matrix_in_a_dict_is_shared_as_its_arrays(form):
    sparse = needs("scipy.sparse")
    value = sparse.random(5, 4, 0.5, format=form)
    with pytest.raises(shm.UnsupportedError, match=r"its shape, and the arrays row, col and data of its tocoo\(\)"):
        shm.create("x", {"m": value})
    parts = value.tocoo()
    (row, column, data), shape = shm.create("x", {"m": [parts.row, parts.col, parts.data], "s": parts.shape}).values()
    assert (sparse.coo_array((data, (row, column)), shape) != value).nnz == 0
    shm.unlink("x")


def test_a_sparse_matrix_that_would_fill_the_memory_is_not_written_out():
    sparse = needs("scipy.sparse")
    with pytest.raises(shm.UnsupportedError) as caught:
        shm.create("x", sparse.lil_matrix((10**5, 10**5)))
    assert "toarray" not in str(caught.value)


def pandas_values(pd):
    zone = pd.date_range("2020", periods=2, tz="Europe/Berlin")
    return [
        (pd.DataFrame({"a": [1, "x"]}), "x.astype({'a': 'str'})"),
        (pd.DataFrame({"a": zone.tz_convert(None), "b": [1, "y"]}), "x.astype({'b': 'str'})"),
        (pd.DataFrame({"a": [1j]}), "x.to_numpy()"),
        (pd.Series(["a", 1], dtype=object), "x.to_list()"),
        (pd.Categorical(["a", "b"]), "x.tolist()"),
    ]


def pandas_values_as_arrays(pd):
    return [
        (pd.Timestamp("2020"), "x.to_numpy()"),
        (pd.Timestamp("2020", tz="Europe/Berlin"), "x.to_datetime64()"),
        (pd.date_range("2020", periods=2, tz="Europe/Berlin"), "x.tz_convert(None).to_numpy()"),
    ]


def test_what_pandas_has_is_shared_by_its_values():
    pd = needs("pandas")
    for value, expression in pandas_values(pd):
        proposed_and_works(value, expression)
    for value, expression in pandas_values_as_arrays(pd):
        proposed_and_works(value, expression, kind="array")


@pytest.mark.parametrize("make", [shm.ShareableList, lambda items: shm.create("x", items, kind="list")])
def test_an_int_beyond_a_list_says_its_range_and_how_it_can_be_an_item(make):
    with pytest.raises(shm.RangeError, match=r"9223372036854775808 takes 65 bits .* -2\*\*63 to 2\*\*63 - 1") as caught:
        make([2**63])
    text = re.search(r"str\(\d+\)", str(caught.value))[0]
    assert make([eval(text)])[0] == str(2**63)


def test_what_the_checkup_proposes_cures(shm_dir):
    shm_dir.chmod(0o777)
    (wrong,) = (one for one in shm.doctor() if one.cure)
    shell_line(wrong.cure)
    assert not [one for one in shm.doctor() if one.cure]


def test_what_pip_is_to_install_exists():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    source = "".join(path.read_text() for path in ROOT.glob("shmkernel/**/*.py"))
    named = re.findall(r'pip install "shmkernel\[(\w+)\]"', source)
    assert named
    assert {*named} <= {*extras}
