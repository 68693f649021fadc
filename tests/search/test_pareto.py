import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nasvid.search.pareto import choose, hypervolume, nondominated

SIDE = 6
"""Points lie on a small grid, so that ties and duplicates are common."""


def grids(dims: int, most: int = 12) -> st.SearchStrategy[np.ndarray]:
    shapes = st.tuples(st.integers(1, most), st.just(dims))
    return shapes.flatmap(lambda shape: arrays(np.float64, shape, elements=st.integers(0, SIDE)))


points = st.integers(1, 3).flatmap(grids)


@given(points)
def test_on_the_front_is_what_nothing_dominates(points: np.ndarray) -> None:
    def dominated(p: np.ndarray) -> bool:
        return any((q <= p).all() and (q < p).any() for q in points)

    assert nondominated(points).tolist() == [i for i, p in enumerate(points) if not dominated(p)]


@given(points, st.randoms(use_true_random=False))
def test_the_front_does_not_depend_on_the_order(points: np.ndarray, random: object) -> None:
    order = np.random.default_rng(random.randrange(2**32)).permutation(len(points))  # pyright: ignore[reportAttributeAccessIssue]
    shuffled = {tuple(points[order][i]) for i in nondominated(points[order])}
    assert shuffled == {tuple(points[i]) for i in nondominated(points)}
    assert len(nondominated(points[order])) == len(nondominated(points))


@given(points)
def test_hypervolume_is_the_share_of_cells_dominated(points: np.ndarray) -> None:
    dims = points.shape[1]
    cells = np.array(list(itertools.product(range(SIDE), repeat=dims)))
    covered = (points[:, None, :] <= cells[None]).all(axis=2).any(axis=0)
    reference = np.full(dims, float(SIDE))
    assert hypervolume(points, reference) == pytest.approx(covered.mean(), abs=1e-12)


@given(grids(2))
def test_hypervolume_is_that_of_the_front_and_free_of_units(points: np.ndarray) -> None:
    reference = np.array([6.0, 6.0])
    whole = hypervolume(points, reference)
    assert hypervolume(points[nondominated(points)], reference) == pytest.approx(whole)
    units = np.array([1e9, 1e-3])
    assert hypervolume(points * units, reference * units) == pytest.approx(whole)


def test_nothing_has_no_front_and_no_volume() -> None:
    assert nondominated(np.zeros((0, 2))).tolist() == []
    assert hypervolume(np.zeros((0, 2)), np.ones(2)) == 0.0


@given(arrays(np.float64, st.integers(0, 40), elements=st.integers(0, 50)), st.integers(1, 12))
def test_a_choice_has_the_ends_and_ascends(costs: np.ndarray, n: int) -> None:
    chosen = choose(costs, n)
    assert len(set(chosen)) == len(chosen) == min(n, len(costs))
    assert sorted(costs[chosen]) == list(costs[chosen])
    if len(costs) and n >= 2:
        assert costs[chosen[0]] == costs.min()
        assert costs[chosen[-1]] == costs.max()


def test_a_choice_is_even_over_the_cost_not_over_the_members() -> None:
    crowded = np.concatenate([np.linspace(0, 10, 91), np.linspace(11, 100, 90)])
    assert crowded[choose(crowded, 5)].tolist() == pytest.approx([0, 25, 50, 75, 100], abs=0.6)
