"""What is read of a header without numpy is what numpy reads."""

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from shmkernel.kinds import array, npy_header


def head_of(shape, dtype, order="C"):
    return array.encode(shape, np.dtype(dtype), order)


@given(
    arrays.array_shapes(min_dims=0, max_dims=12, min_side=0),
    arrays.array_dtypes() | arrays.scalar_dtypes(),
    st.sampled_from("CF"),
)
def test_a_description_is_that_of_the_kind_or_none(shape, dtype, order):
    try:
        head = head_of(shape, dtype, order)
        full = array.KIND.describe(head, 1 << 62)
    except ValueError:
        return
    assert npy_header.describe(head, 1 << 62) in (None, full)


def test_numbers_in_the_machine_s_order_need_no_numpy():
    for code in "?bhilqBHILQefdFD":
        for shape in ((), (3,), (2, 3, 4)):
            head = head_of(shape, code)
            assert npy_header.describe(head, 1 << 20) == array.KIND.describe(head, 1 << 20)


@given(st.data())
def test_damaged_bytes_are_described_as_the_kind_describes_them_or_not_at_all(data):
    head = bytearray(head_of((2, 3), "<i2"))
    for _ in range(data.draw(st.integers(1, 3))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    what = npy_header.describe(bytes(head), 1000)
    if what is not None:
        assert what == array.KIND.describe(bytes(head), 1000)


def test_a_file_that_is_too_short_for_its_shape_is_left_to_the_kind():
    np.save(file := io.BytesIO(), np.zeros((2, 3)))
    head = file.getvalue()
    assert npy_header.describe(head, len(head)) is not None
    assert npy_header.describe(head, len(head) - 1) is None
