"""The order of streamed samples, for shards of any sizes and any number of ranks."""

from itertools import pairwise

import numpy as np
import pytest

from nasvid.data.order import STREAMS, Order


def order_of(counts, *, window=2, seed=3) -> Order:
    return Order(np.array(counts, dtype=np.int64), seed, window)


def epoch_of(order: Order, epoch: int = 0) -> list[tuple[int, int]]:
    places = map(order.place, range(epoch * order.samples, (epoch + 1) * order.samples))
    return [(place.shard, place.number) for place in places]


@pytest.mark.parametrize("turn", range(12))
def test_each_epoch_has_every_sample_once_in_an_order_of_its_own(rng, turn):
    counts = [rng.choice((0, 1, 2, 5, rng.randint(1, 30))) for _ in range(rng.randint(1, 25))]
    counts[rng.randrange(len(counts))] += 1 + turn
    order = order_of(counts, window=rng.randint(1, 4), seed=rng.randrange(100))
    every = sorted((shard, n) for shard, count in enumerate(counts) for n in range(count))
    first, second = epoch_of(order), epoch_of(order, 1)
    assert sorted(first) == sorted(second) == every
    assert order.samples < 12 or first != second
    assert epoch_of(order_of(counts, window=order.window, seed=order.seed), 1) == second


def test_a_stream_is_read_window_by_window_and_never_looks_back():
    order = order_of([7, 3, 9, 4, 0, 8, 6, 5, 9, 2, 7, 7, 3, 4, 8, 6, 5, 1, 9, 4, 3], window=2)
    assert order.streams == STREAMS
    for number in range(STREAMS):
        samples = [n for n in range(2 * order.samples) if order.stream_of(n) == number]
        windows = list(dict.fromkeys(map(order.window_of, samples)))
        assert [order.after(window) for window in windows[:-1]] == windows[1:]
        for sample in samples:
            window = order.window_of(sample)
            assert order.place(sample).shard in window.shards
            assert len(window.shards) <= 2
            assert window in order.beside(sample)


def test_samples_are_shuffled_within_a_window():
    order = order_of([1000] * 64)
    shards = [order.place(n).shard for n in range(0, 8 * 500, 8)]
    assert len(set(shards)) == 2
    assert 200 < shards.count(shards[0]) < 300
    numbers = [order.place(n).number for n in range(0, 8 * 500, 8)]
    assert abs(np.corrcoef(numbers, range(500))[0, 1]) < 0.2


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_the_shares_of_any_number_of_ranks_are_one_batch_and_name_few_shards_twice(ranks):
    order = order_of([50] * 40, window=2)
    whole = order.by_stream(64 * 3, 64)
    assert sorted(whole) == list(range(64 * 3, 64 * 4))
    bounds = np.linspace(0, 64, ranks + 1).astype(int)
    shares = [whole[low:high] for low, high in pairwise(bounds)]
    streams = [{order.stream_of(n) for n in share} for share in shares]
    assert sum(map(len, streams)) <= STREAMS + (0 if STREAMS % ranks == 0 else ranks - 1)


def test_a_replacement_is_of_the_same_window():
    order = order_of([20] * 30, window=3)
    window = order.window_of(77)
    places = [order.another(window, np.random.default_rng(n)) for n in range(200)]
    assert {place.shard for place in places} == set(window.shards)
    assert all(0 <= place.number < 20 for place in places)


def test_ten_million_samples_are_a_few_numbers():
    order = order_of([1000] * 10_000)
    places = {order.place(n) for n in range(7_654_321, 7_654_321 + 2000)}
    assert len(places) == 2000
    assert len({place.shard for place in places}) == 2 * STREAMS
    kept = [epoch.shards.nbytes + epoch.ends.nbytes for epoch in order._epochs.values()]
    kept += [each.nbytes for each in order._permutations.values()]
    assert sum(kept) < 2**20
