"""Preview of an array as a line, heat map, image or grid of cells, from a bounded number of reads.

    1-D numbers      a line; with over 1,000 numbers the least and greatest of each stretch
    n-D numbers      a heat map of the last two axes; `Look.axes` gives positions on the others
    H x W x 3 or 4   an image, if uint8
    all others       cells

`Look.form` asks for numbers as cells, or for a histogram of the values that the picture would be made from.

A read takes 1 us for up to some KiB. So short rows are read whole, and single elements of long ones.
"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from shmkernel.kinds.preview import Look, Preview, Source, grid, nothing, page

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WHOLE = 2 << 20  # bytes: arrays up to this size are read whole
_ROW = 32 << 10  # bytes: rows up to this size are read whole to pick some of their elements
_POINTS = 9_000  # single elements read one by one: 5 ms
_CELLS = 12_000  # at most in a heat map: 4 bytes each
_PIXELS = 16_000  # at most in an image: 3 bytes each
_SIDE, _FEW = 300, 40  # rows or columns: at most 300 are shown, and up to 40 all of them
_DOTS = 1_000  # at most in a line; a longer one is shown as an envelope
_STRETCHES, _STRETCH = 500, 256  # of an envelope: their number, and the elements read of each
_WIDE = 256  # characters read of a text
_BARS = 40  # of a histogram
_GROSS = 256 << 10  # bytes: larger elements are not shown


class Shape(NamedTuple):
    """An array in its file: the offset of the first element, and the strides, in bytes."""

    dtype: np.dtype[Any]
    lengths: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int


def preview(source: Source, shape: Shape, look: Look) -> Preview:
    """Return the preview of an array."""
    if 0 in shape.lengths or not shape.dtype.itemsize:
        return nothing("no elements")
    numeric = shape.dtype.kind in "?biufc" and shape.dtype.subdtype is None
    pixels = _is_image(shape)
    several = numeric and bool(shape.lengths)
    as_cells = several and look.form == "table"
    seen = len(shape.lengths) if not numeric or not shape.lengths else 1 if len(shape.lengths) == 1 else 2 + pixels
    seen = min(seen, 2 if as_cells else 2 + pixels)
    plane, axes = _fix(shape, len(shape.lengths) - seen, look.axes)
    with np.errstate(all="ignore"):
        if not numeric or not plane.lengths or as_cells:
            picture = _cells(source, plane, look)
        else:
            draw = _image if pixels else _line if len(plane.lengths) == 1 else _heat
            picture = draw(source, plane)
            known = picture.facts.pop("values")
            if look.form == "histogram":
                picture = _bars(picture.facts, *known)
    picture.facts.update(axes=axes, forms=["", "table", "histogram"] if several else [])
    if axes and picture.facts["note"]:
        picture.facts["note"] += " of this slice"
    return picture


def strides(lengths: tuple[int, ...], itemsize: int, order: str) -> tuple[int, ...]:
    """Return the strides of a contiguous array, in bytes.

    Examples
    --------
    >>> strides((2, 3, 4), 8, "C"), strides((2, 3, 4), 8, "F")
    ((96, 32, 8), (8, 16, 48))
    """
    if order == "F":
        return strides(lengths[::-1], itemsize, "C")[::-1]
    return tuple(itemsize * math.prod(lengths[axis + 1 :]) for axis in range(len(lengths)))


def _is_image(shape: Shape) -> bool:
    return len(shape.lengths) > 2 and shape.dtype == np.uint8 and shape.lengths[-1] in (3, 4)  # noqa: PLR2004  plain


def _fix(shape: Shape, leading: int, wanted: tuple[int, ...]) -> tuple[Shape, list[dict[str, int]]]:
    """Return the part of the array at one position on each leading axis, and those axes for the facts."""
    offset, axes = shape.offset, []
    for axis in range(leading):
        size = shape.lengths[axis]
        at = max(0, min(wanted[axis] if axis < len(wanted) else 0, size - 1))
        offset += at * shape.strides[axis]
        axes.append({"size": size, "at": at})
    return Shape(shape.dtype, shape.lengths[leading:], shape.strides[leading:], offset), axes


def _line(source: Source, shape: Shape) -> Preview:
    (count,), (step,) = shape.lengths, shape.strides
    size = shape.dtype.itemsize
    if step == size and count * size <= _WHOLE:
        values = _numbers(_elements(source, shape, 0, count))
        if count <= _DOTS:
            low = high = values
        else:
            edges = np.arange(_STRETCHES) * count // _STRETCHES
            low, high = np.fmin.reduceat(values, edges), np.fmax.reduceat(values, edges)
    else:
        each = _STRETCH if step == size else 4
        starts = np.arange(_STRETCHES) * count // _STRETCHES
        parts = [_numbers(_elements(source, shape, int(at), min(each, count - int(at)))) for at in starts]
        low, high = (
            np.array([np.fmin.reduce(part) for part in parts]),
            np.array([np.fmax.reduce(part) for part in parts]),
        )
        values = np.concatenate(parts)
    facts = {"width": count, "dots": len(low), "joined": low is not high, **_figures(values, count, shape.dtype)}
    data = low.astype("<f8").tobytes() + (high.astype("<f8").tobytes() if low is not high else b"")
    return Preview("line", facts, data)


def _heat(source: Source, shape: Shape) -> Preview:
    rows, columns = _thinned(shape, _CELLS)
    whole = _whole_plane(source, shape)
    known = _numbers(_plane(source, shape, rows, columns) if whole is None else whole)
    values = known if whole is None else known[np.ix_(rows, columns)]
    facts = {
        "height": shape.lengths[0], "width": shape.lengths[1], "h": len(rows), "w": len(columns),
        **_figures(known.ravel(), math.prod(shape.lengths), shape.dtype),
    }  # fmt: skip
    return Preview("heat", facts, values.astype("<f4").tobytes())


def _image(source: Source, shape: Shape) -> Preview:
    height, width, depth = shape.lengths
    if shape.strides[-1] == 1:  # a pixel's colours are contiguous
        flat = Shape(np.dtype((np.void, depth)), (height, width), shape.strides[:2], shape.offset)
        rows, columns = _thinned(flat, _PIXELS)
        pixels = np.ascontiguousarray(_plane(source, flat, rows, columns)).view(np.uint8)
        pixels = pixels.reshape(len(rows), len(columns), depth)
    else:
        flat = shape._replace(lengths=(height, width), strides=shape.strides[:2])
        rows, columns = _thinned(flat, _PIXELS, _POINTS // depth)
        planes = [
            _plane(source, flat._replace(offset=shape.offset + at * shape.strides[2]), rows, columns)
            for at in range(depth)
        ]
        pixels = np.stack(planes, axis=-1)
    facts = {
        "height": height, "width": width, "h": len(rows), "w": len(columns),
        **_figures(_numbers(pixels[..., :3].ravel()), height * width * 3, shape.dtype),
    }  # fmt: skip
    if depth == 4:  # noqa: PLR2004  on grey: transparency would hide the values
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = (pixels[..., :3] * alpha + 127 * (255 - alpha)) // 255
    return Preview("image", facts, pixels[..., :3].astype(np.uint8).tobytes())


def _cells(source: Source, shape: Shape, look: Look) -> Preview:
    """Return a grid of values as texts; its columns are the last axis, or the fields of a structure."""
    dtype, fields = shape.dtype, shape.dtype.names
    if dtype.itemsize > _GROSS and dtype.kind not in "SU":
        return nothing(f"one element takes {dtype.itemsize} bytes, too many to show")
    lengths = shape.lengths or (1,)
    steps = shape.strides or (dtype.itemsize,)
    rows = page(look, lengths[0])
    if fields and len(lengths) == 1:
        columns = [(name, str(dtype[name])) for name in fields]
        texts = [[_field(value, name) for name in fields] for value in _row(source, shape, rows, steps[0])]
    elif len(lengths) == 1:
        columns = [("value", str(dtype))]
        texts = [[_text(value)] for value in _row(source, shape, rows, steps[0])]
    else:
        wide = min(lengths[1], 33)  # one more than the grid shows, which then counts the rest
        columns = [(str(at), str(dtype)) for at in range(wide)]
        texts = [
            [_text(value) for value in _row(source, _at(shape, at * steps[0]), range(wide), steps[1])] for at in rows
        ]
        columns += [("", "")] * (lengths[1] - wide) if lengths[1] < 10_000 else []  # noqa: PLR2004  plain
    labels = map(str, rows) if shape.lengths else [""]
    return grid(columns, labels, texts, rows.start, lengths[0], note="" if shape.lengths else "a single value")


def _row(source: Source, shape: Shape, at: range, step: int) -> list[Any]:
    dtype = shape.dtype
    size = dtype.itemsize
    if dtype.kind in "SU" and size > _WIDE * 4:
        size = _WIDE * (4 if dtype.kind == "U" else 1)
        dtype = np.dtype(f"{dtype.byteorder if dtype.byteorder in '<>' else ''}{dtype.kind}{_WIDE}")
    if step == size:
        blob = source.read(shape.offset + at.start * step, len(at) * step)
    else:
        blob = b"".join(source.read(shape.offset + index * step, size) for index in at)
    if dtype.kind == "U":  # numpy raises SystemError for numbers beyond Unicode
        letters = np.frombuffer(blob, f"{dtype.byteorder if dtype.byteorder in '<>' else ''}u4")
        blob = np.where(letters > sys.maxunicode, 0xFFFD, letters).astype(letters.dtype).tobytes()
    return list(np.frombuffer(blob, dtype)) if dtype.subdtype is None else [
        np.frombuffer(blob[index * size : (index + 1) * size], dtype) for index in range(len(at))
    ]  # fmt: skip


def _at(shape: Shape, further: int) -> Shape:
    return shape._replace(offset=shape.offset + further)


def _field(value: Any, name: str) -> str:
    try:
        return _text(value[name])
    except SystemError:
        return "out of range"


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    try:
        return str(value)
    except (OverflowError, SystemError):  # a date beyond numpy's range; a number that is no character
        return "out of range"


def _thinned(shape: Shape, cells: int, points: int = _POINTS) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the rows and columns to read, in the proportions of the array."""
    height, width = shape.lengths
    step, length = min(zip(shape.strides, shape.lengths, strict=True))
    if step * length > _ROW and height * width * shape.dtype.itemsize > _WHOLE:
        cells = min(cells, points)
    scale = min(1.0, math.sqrt(cells / (height * width)))
    rows, columns = (min(size, max(_FEW, int(size * scale)), _SIDE) for size in shape.lengths)
    return _spread(height, rows), _spread(width, columns)


def _spread(total: int, count: int) -> NDArray[np.intp]:
    """Return the middle positions of `count` equal stretches of `total`."""
    return (2 * np.arange(count) + 1) * total // (2 * count)


def _plane(source: Source, shape: Shape, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> NDArray[Any]:
    """Read the elements at the crossings of the chosen rows and columns."""
    if shape.strides[0] < shape.strides[1]:
        turned = Shape(shape.dtype, shape.lengths[::-1], shape.strides[::-1], shape.offset)
        return _plane(source, turned, columns, rows).T
    whole = _whole_plane(source, shape)
    if whole is not None:
        return whole[np.ix_(rows, columns)]
    size, (outer, inner) = shape.dtype.itemsize, shape.strides
    span = (shape.lengths[1] - 1) * inner + size
    if span <= _ROW:
        picked = [_strided(source.read(shape.offset + int(at) * outer, span), shape, columns) for at in rows]
        return np.stack(picked)
    steps = (columns * inner).tolist()
    blob = b"".join(
        source.read(start + step, size) for start in (shape.offset + rows * outer).tolist() for step in steps
    )
    return _array(blob, shape).reshape(len(rows), len(columns))


def _whole_plane(source: Source, shape: Shape) -> NDArray[Any] | None:
    """Return all elements if they are contiguous and take 2 MiB at most, else None."""
    size, (height, width) = math.prod(shape.lengths) * shape.dtype.itemsize, shape.lengths
    if size > _WHOLE:
        return None
    if shape.strides == strides(shape.lengths, shape.dtype.itemsize, "C"):
        return _array(source.read(shape.offset, size), shape).reshape(height, width)
    if shape.strides == strides(shape.lengths, shape.dtype.itemsize, "F"):
        return _array(source.read(shape.offset, size), shape).reshape(width, height).T
    return None


def _strided(blob: bytes, shape: Shape, columns: NDArray[np.intp]) -> NDArray[Any]:
    (step, size) = shape.strides[1], shape.dtype.itemsize
    if step == size:
        return _array(blob, shape)[columns]
    return np.ndarray(shape.lengths[1], shape.dtype, blob, 0, step)[columns]


def _elements(source: Source, shape: Shape, first: int, count: int) -> NDArray[Any]:
    step, size = shape.strides[0], shape.dtype.itemsize
    if step == size:
        return _array(source.read(shape.offset + first * step, count * size), shape)
    start = shape.offset + first * step
    return _array(b"".join(source.read(start + at * step, size) for at in range(count)), shape)


def _array(blob: bytes, shape: Shape) -> NDArray[Any]:
    return np.frombuffer(blob, shape.dtype)


def _numbers(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(np.abs(values) if values.dtype.kind == "c" else values).astype(np.float64)


def _figures(values: NDArray[np.float64], total: int, dtype: np.dtype[Any]) -> dict[str, Any]:
    """Return the range for the colours, the statistics as texts, and a note on the sample."""
    finite = values[np.isfinite(values)]
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 0.0)
    whole = values.size >= total
    most, least, about = ("", "", "") if whole else ("≤ ", "≥ ", "≈ ")  # what a sample tells of all
    stats = []
    if finite.size:
        write = _whole if dtype.kind in "?biu" else _real
        stats = [
            ("min", most + write(low)), ("max", least + write(high)), ("mean", about + _real(float(finite.mean()))),
        ]  # fmt: skip
    if dtype.kind in "fc":
        gaps = int(np.isnan(values).sum())
        stats.append(("NaN", f"{least}{gaps:,}" if gaps or whole else "none seen"))
        if infinite := int(np.isinf(values).sum()):
            stats.append(("infinite", f"{least}{infinite:,}"))
    seen = f"of all {total:,} values" if whole else f"of a sample: {values.size:,} of {total:,} values"
    note = f"magnitudes {seen}" if dtype.kind == "c" else seen
    known = (finite, dtype.kind in "?biu")
    return {"low": low, "high": high, "stats": stats, "note": note, "sampled": not whole, "values": known}


def _bars(facts: dict[str, Any], finite: NDArray[np.float64], whole: bool) -> Preview:
    """Return how many values fall into each of some equal stretches from the least to the greatest value."""
    low, high = facts["low"], facts["high"]
    count = _BARS
    if whole and high - low < _BARS:  # a bar for each number
        count, low, high = int(high - low) + 1, low - 0.5, high + 0.5
    span = (high / 2 - low / 2) or 1.0  # halves: the range of the largest floats is infinite
    places = ((finite / 2 - low / 2) / span * count).astype(np.intp).clip(0, count - 1)
    counts = np.bincount(places, minlength=count)
    chosen = {name: facts[name] for name in ("stats", "note", "sampled")}
    most = float(counts.max())
    return Preview(
        "bars", {"low": low, "high": high, "dots": count, "most": most, **chosen}, counts.astype("<f8").tobytes()
    )


def _whole(value: float) -> str:
    return f"{int(value)}"


def _real(value: float) -> str:
    return f"{value:.6g}"
