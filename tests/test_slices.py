import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from nasvid.slices import Segments, TensorSlice


@st.composite
def sliced(draw):
    """Return a size and some ranges of it, from the left to the right."""
    size = draw(st.integers(1, 9))
    edges = sorted(draw(st.sets(st.integers(0, size), min_size=2, max_size=6)))
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    return size, Segments(*ranges)


slices_of_tensors = st.lists(sliced(), min_size=1, max_size=4)


def index(where: TensorSlice) -> tuple[torch.Tensor, ...]:
    """Return the same as an index of `torch.Tensor`, element by element."""
    kept = [torch.cat([torch.arange(a, b) for a, b in segments]) for segments in where.dims]
    return tuple(torch.meshgrid(*kept, indexing="ij"))


def counting(dims) -> tuple[torch.Tensor, TensorSlice]:
    shape = [size for size, _ in dims]
    full = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    return full, TensorSlice(tuple(segments for _, segments in dims))


def test_ranges_that_touch_are_one():
    assert Segments((0, 2), (2, 5), (7, 8)) == ((0, 5), (7, 8))
    assert Segments((0, 2), (2, 5), (7, 8)).length == 6


@pytest.mark.parametrize(
    "ranges", [[(2, 2)], [(3, 1)], [(-1, 2)], [(0, 3), (2, 4)], [(4, 6), (0, 2)]]
)
def test_ranges_that_make_no_sense_are_errors(ranges):
    with pytest.raises(ValueError, match=r"empty or negative|out of order"):
        Segments(*ranges)


@given(slices_of_tensors)
def test_gathering_is_indexing(dims):
    full, where = counting(dims)
    part = where.gather(full)
    assert torch.equal(part, full[index(where)])
    assert part.is_contiguous()
    assert torch.equal(where.gather_into(torch.empty_like(part), full), part)


@given(slices_of_tensors)
def test_adding_puts_things_where_they_were_gathered(dims):
    full, where = counting(dims)
    expected = full.clone()
    expected[index(where)] += 0.5
    where.add_into(full, torch.full([segments.length for segments in where.dims], 0.5))
    assert torch.equal(full, expected)


@given(slices_of_tensors)
def test_a_mask_is_true_inside_only(dims):
    full, where = counting(dims)
    mask = torch.zeros_like(full, dtype=torch.bool)
    where.mark(mask)
    assert set(full[mask].tolist()) == set(full[index(where)].flatten().tolist())
    assert where.covers(full.shape) == bool(mask.all())


@given(slices_of_tensors)
def test_a_view_shows_the_slice(dims):
    full, where = counting(dims)
    assert where.is_view == all(len(segments) == 1 for segments in where.dims)
    if where.is_view:
        view = where.view(full)
        assert torch.equal(view, where.gather(full))
        assert view.untyped_storage().data_ptr() == full.untyped_storage().data_ptr()


@given(slices_of_tensors)
def test_what_leads_is_contiguous_from_the_start(dims):
    full, where = counting(dims)
    if where.leads(full.shape):
        view = where.view(full)
        assert view.is_contiguous()
        assert view.data_ptr() == full.data_ptr()
    else:
        flat = where.gather(full).flatten()
        rows = len(flat) // max(full[:1].numel(), 1)
        assert not torch.equal(flat, full[:rows].flatten())


def test_a_prefix_is_the_default():
    where = TensorSlice.of("w", torch.Size([4, 3]), torch.Size([2, 3]), {})
    assert where.dims == (((0, 2),), ((0, 3),))
    assert where.leads(torch.Size([4, 3]))


def test_tensors_without_dimensions_or_elements_have_slices():
    scalar = TensorSlice.of("s", torch.Size([]), torch.Size([]), {})
    assert scalar.covers(torch.Size([]))
    assert torch.equal(scalar.gather(torch.tensor(3.0)), torch.tensor(3.0))
    empty = TensorSlice.of("e", torch.Size([3]), torch.Size([0]), {})
    assert empty.gather(torch.ones(3)).numel() == 0


@pytest.mark.parametrize(
    ("part", "rules", "message"),
    [
        ([2], {}, "w is 1-dimensional in the subnet, but 2-dimensional in"),
        ([5, 3], {}, r"w: dimension 0 keeps 5 of 4, which does not match the slice \[\(0, 5\)\]"),
        ([2, 2], {1: Segments((0, 1))}, "w: dimension 1 keeps 2 of 3"),
        ([2, 2], {1: Segments((0, 1), (3, 4))}, "w: dimension 1 keeps 2 of 3"),
    ],
)
def test_slices_that_do_not_fit_name_the_tensor_and_both_numbers(part, rules, message):
    with pytest.raises(ValueError, match=message):
        TensorSlice.of("w", torch.Size([4, 3]), torch.Size(part), rules)


@given(st.lists(st.tuples(sliced(), sliced()), min_size=1, max_size=3))
def test_around_slices_lies_what_any_of_them_keeps(kept):
    slices = [TensorSlice((rows, columns)) for (_, rows), (_, columns) in kept]
    around = TensorSlice.around(slices)
    for dim in range(2):
        inside = {i for each in slices for a, b in each.dims[dim] for i in range(a, b)}
        assert {i for a, b in around.dims[dim] for i in range(a, b)} == inside
    assert all(around.contains(each) for each in slices)
    assert all(each.contains(around) == (each == around) for each in slices)
