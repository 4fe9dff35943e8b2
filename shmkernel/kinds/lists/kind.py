"""Lists: a segment has the layout of the standard library's ShareableList, which can attach it.

`shmkernel.kinds.lists.layout` has the layout; `View` is a list over it. Numbers are read and stored through memoryviews
that are cast to their type, in one access of 8 bytes. So no reader sees half a number, or the zeros that
struct.pack_into writes first.
"""

from __future__ import annotations

import array
import bisect
import enum
import operator
import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from shmkernel import kinds
from shmkernel._core import paths
from shmkernel.errors import ArgumentError, DamagedError, UnsupportedError
from shmkernel.kinds import Description, Plan
from shmkernel.kinds.lists import layout, preview

if TYPE_CHECKING:
    import mmap
    from collections.abc import Iterable, Iterator

    from shmkernel.kinds.lists.layout import Value
    from shmkernel.kinds.preview import Look, Preview, Source

_INT, _FLOAT, _BOOL, _NONE = map(layout.word, (layout.INT, layout.FLOAT, layout.BOOL, layout.NONE))
_BEYOND = 1 << 63
_LOW = layout.WORD - 1
_SMALL, _LARGE = 4, 1 << 16  # items that a search reads in one step: at first, and at most
_OTHER = object()  # equals nothing


class List:
    """The list kind; see `shmkernel.kinds.Kind`."""

    name = "list"

    def recognises(self, value: object, options: Mapping[str, object]) -> bool:
        """Take flat lists and tuples of values that can be items, and shared lists.

        A list would hold no names of fields, and numbers in place of members: such values become objects.
        """
        if isinstance(value, (list, tuple)):
            if hasattr(value, "_fields") or hasattr(value, "__dataclass_fields__"):
                return False
            return all(layout.may_be(kind) and not issubclass(kind, enum.Enum) for kind in set(map(type, value)))
        return isinstance(value, View)

    def plan(self, name: str, value: object, options: Mapping[str, object]) -> Plan:
        """Plan the items of any iterable."""
        kinds.only(name, "a list", options)
        named = isinstance(value, Mapping) or hasattr(value, "columns")  # an iteration yields names alone
        if named or isinstance(value, str) or not hasattr(value, "__iter__"):
            message = f"{name!r}: {kinds.a_type(value)} cannot become a list"
            raise UnsupportedError(message, name=name, type=type(value).__name__)
        try:
            pieces = layout.encode(cast("Iterable[object]", value))
        except (ArgumentError, UnsupportedError) as error:
            made = UnsupportedError if "encoding" in error.facts else type(error)  # an object can hold such a text
            raise made(f"{name!r}: {error.what}", name=name) from None
        return Plan(sum(map(len, pieces)), lambda: iter(pieces))

    def load(self, name: str, path: str) -> Plan:
        """Plan the content of a file that `save` wrote."""
        data = kinds.whole(path)
        try:
            layout.decode(data)
        except ValueError as error:
            message = f"{path} cannot be loaded as a list: {error}. It has to be a file that a list was saved to"
            raise DamagedError(message, name=name, path=path) from None
        return Plan(len(data), lambda: iter([data]))

    def matches(self, head: bytes) -> bool:
        """Return False: nothing in the bytes marks this kind."""
        return False

    def open(self, mapping: mmap.mmap, path: str, mode: str) -> object:
        """Return a view of the list."""
        return View(mapping, paths.called(path))

    def describe(self, head: bytes, size: int) -> Description:
        """Describe the number of items."""
        count = layout.count(head, size)
        return Description(f"{count} item{'s' * (count != 1)}")

    def preview(self, source: Source, look: Look) -> Preview:
        """Preview index, type and value of items."""
        return preview.preview(source, look)


KIND = List()


class View:
    """A list of fixed length in shared memory: an item can be replaced by a value that fits its slot.

    Parameters
    ----------
    mapping : bytes-like
        The bytes of the list; ValueError if they have another layout.
    name : str, optional
        The name of the list in messages.

    Examples
    --------
    >>> view = View(bytearray(b"".join(layout.encode([1, "a", None]))))
    >>> view[1] = "abc"
    >>> view, view[-1], len(view), view.index("abc"), view.format
    (View([1, 'abc', None]), None, 3, 1, 'q8sxxxxxx?x')
    """

    def __init__(self, mapping: Any, name: str = "list") -> None:
        self._name = name
        length, start, formats, codes = layout.decode(mapping)
        whole = memoryview(mapping)
        self._begins = _cast(whole[layout.WORD : start - layout.WORD], "q")
        self._ends = _cast(whole[2 * layout.WORD : start], "q")
        self._data = whole[start:formats]
        self._words = _cast(self._data, "q")
        self._floats = cast("memoryview[float]", _cast(self._data, "d"))
        self._formats = _cast(whole[formats:codes], "q")
        self._codes = whole[codes : codes + length]
        self._simple = formats - start == layout.WORD * length  # every slot is one word

    def views(self) -> tuple[memoryview[Any], ...]:
        """Return all memoryviews of the memory: releasing them closes the list."""
        return self._begins, self._ends, self._data, self._words, self._floats, self._formats, self._codes

    def __len__(self) -> int:
        return len(self._formats)

    def __getitem__(self, position: int) -> Value:
        try:
            format_ = self._formats[position]
            if format_ == _INT:
                return self._words[self._begins[position] >> 3]
            if format_ == _FLOAT:
                return self._floats[self._begins[position] >> 3]
            position = operator.index(position)
            return self._read(position if position >= 0 else position + len(self), format_)
        except IndexError:
            raise self._outside(position, "index out of range") from None

    def __setitem__(self, position: int, value: object) -> None:
        try:
            format_ = self._formats[position]
            if format_ == _INT and type(value) is int and -_BEYOND <= value < _BEYOND:
                self._words[self._begins[position] >> 3] = value
            elif format_ == _FLOAT and type(value) is float:
                self._floats[self._begins[position] >> 3] = value
            else:
                position = operator.index(position)
                self._store(position if position >= 0 else position + len(self), value)
        except IndexError:
            raise self._outside(position, "assignment index out of range") from None

    def __iter__(self) -> Iterator[Value]:
        """Yield the items; each is read when it is yielded."""
        formats, read = self._formats, self._read
        everywhere = range(len(formats))
        if self._simple and everywhere:
            usual, items = (_FLOAT, self._floats) if formats[0] == _FLOAT else (_INT, self._words)
            for position, format_, item in zip(everywhere, formats, items, strict=True):
                yield item if format_ == usual else read(position, format_)
        else:
            for position, format_, begin in zip(everywhere, formats, self._begins, strict=True):
                value: Value
                try:
                    if format_ == _INT:
                        value = self._words[begin >> 3]
                    elif format_ == _FLOAT:
                        value = self._floats[begin >> 3]
                    else:
                        value = read(position, format_)
                except IndexError:
                    raise self._torn(position) from None
                yield value

    def __contains__(self, value: object) -> bool:
        return self._find(value) is not None

    def __repr__(self) -> str:
        return f"{type(self).__name__}({list(self)})"

    def count(self, value: object) -> int:
        """Return how many items equal `value`."""
        if value and isinstance(value, (str, bytes)):
            return sum(1 for _ in self._texts(value))
        return sum(self._values(start, stop, value).count(value) for start, stop in self._spans())

    def index(self, value: object) -> int:
        """Return the position of the first item that equals `value`; ValueError if there is none."""
        position = self._find(value)
        if position is None:
            raise ArgumentError(f"{value!r} not in this container")
        return position

    @property
    def format(self) -> str:
        """The struct formats of all items in one text, as in the standard library."""
        return "".join(map(self._get_packing_format, range(len(self))))

    def _get_packing_format(self, position: int) -> str:
        """Return the struct format of an item; for a text that of its slot, as in the standard library."""
        format_ = layout.text(self._formats[position])
        if format_.endswith(b" "):
            return f"{self._ends[position] - self._begins[position]}s"
        return format_.decode("ascii", "replace")

    def _read(self, position: int, format_: int) -> Value:
        """Return an item of any format."""
        begin = self._begins[position]
        reader = layout.reader(format_)
        if reader is None:
            return self._read_number(position, begin, format_)
        unpack, exact = reader
        code = self._codes[position]
        try:
            (data,) = unpack(self._data, begin)
            if not exact:
                data = data.rstrip(b"\0")
            if code == layout.BYTES:
                return data
            if code == layout.TEXT:
                return data.decode()
        except (struct.error, UnicodeDecodeError):
            pass
        raise self._torn(position)

    def _read_number(self, position: int, begin: int, format_: int) -> Value:
        try:
            if format_ == _INT:
                return self._words[begin >> 3]
            if format_ == _FLOAT:
                return self._floats[begin >> 3]
            if format_ == _BOOL:
                return self._data[begin + _LOW] != 0
            if format_ == _NONE:
                return None
        except IndexError:  # another process has changed the offsets
            pass
        raise self._torn(position)

    def _outside(self, position: int, text: str) -> IndexError | DamagedError:
        """Make the error for an IndexError: of the given index, or of an offset that another process has changed."""
        inside = -len(self) <= position < len(self)
        return self._torn(position) if inside else IndexError(text)

    def _torn(self, position: int) -> DamagedError:
        message = (
            f"item {position} of {self._name!r} cannot be read: its format does not fit its bytes. Perhaps another "
            "process is storing it at this moment, or the standard library has cut a str there"
        )
        return DamagedError(message, name=self._name, position=position)

    def _store(self, position: int, value: object) -> None:
        """Replace an item by a value of any type. Nothing is stored unless the value fits."""
        begin, end = self._begins[position], self._ends[position]
        if not 0 <= begin < end <= len(self._data):
            raise self._torn(position)
        try:
            format_, code, data = layout.lay(value, end - begin)
        except (ArgumentError, UnsupportedError) as error:
            message = f"item {position} of {self._name!r}: {error.what}"
            raise type(error)(message, name=self._name, position=position) from None
        number = layout.word(format_)
        if code in (layout.TEXT, layout.BYTES):
            self._data[begin:end] = data
            self._codes[position] = code  # before the format: readers use the codes of texts alone
            self._formats[position] = number
        else:
            self._words[begin >> 3] = layout.word(data)
            if number != self._formats[position]:
                self._formats[position] = number
                self._codes[position] = code

    def _find(self, value: object) -> int | None:
        if value and isinstance(value, (str, bytes)):
            return next(self._texts(value), None)
        for start, stop in self._spans():
            items = self._values(start, stop, value)
            if value in items:
                return start + items.index(value)
        return None

    def _spans(self) -> Iterator[tuple[int, int]]:
        """Yield growing parts of the list: a search that ends early reads little, a long one takes few steps."""
        start, size, length = 0, _SMALL, len(self)
        while start < length:
            yield start, min(start + size, length)
            start, size = start + size, min(4 * size, _LARGE)

    def _values(self, start: int, stop: int, wanted: object) -> list[object]:
        """Return items; if a number is wanted, a placeholder for each text, which cannot equal it."""
        formats = self._formats[start:stop]
        if self._simple:
            for format_, numbers in ((layout.INT, self._words), (layout.FLOAT, self._floats)):
                if formats == memoryview(format_ * (stop - start)).cast("q"):
                    return cast("list[object]", numbers[start:stop].tolist())
        words, floats, data, read = self._words, self._floats, self._data, self._read
        skip = isinstance(wanted, (int, float, type(None)))
        begins = self._begins[start:stop].tolist()
        try:
            return [
                words[begin >> 3]
                if format_ == _INT
                else floats[begin >> 3]
                if format_ == _FLOAT
                else None
                if format_ == _NONE
                else data[begin | _LOW] != 0
                if format_ == _BOOL
                else _OTHER
                if skip
                else read(position, format_)
                for position, format_, begin in zip(range(start, stop), formats.tolist(), begins, strict=True)
            ]
        except IndexError:  # another process has changed the offsets
            raise self._torn(start) from None

    def _texts(self, value: str | bytes) -> Iterator[int]:
        """Yield the positions of a text, found by its bytes in many items at once."""
        key = value.encode(errors="surrogatepass") if isinstance(value, str) else value
        for start, stop in self._spans():
            first = self._begins[start]
            data = self._data[first : self._ends[stop - 1]].tobytes()
            at = data.find(key)
            while at >= 0:
                if not at & _LOW:
                    position = bisect.bisect_left(self._begins, first + at, start, stop)
                    if position < stop and self._begins[position] == first + at and self[position] == value:
                        yield position
                at = data.find(key, (at | _LOW) + 1)


def _cast(view: memoryview, letter: str) -> memoryview:
    return view.cast(letter) if len(view) else memoryview(array.array(letter))  # type: ignore[call-overload]  # a literal
