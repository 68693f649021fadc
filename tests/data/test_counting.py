"""In an epoch every clip comes exactly once, however many ranks and workers read it."""

from collections import Counter
from itertools import chain

import pytest

from nasvid.data.loader import BatchRequest, Cutting, load_batches
from nasvid.data.shards import ShardIndex, index_shards
from nasvid.distributed.ranks import Ranks
from nasvid.recipe.sections import ResolutionSection
from nasvid.sampler import Uniform
from nasvid.shapes import Resolution, VideoShape
from nasvid.testing.toy import ToySpace
from nasvid.training.planner import Planner, resolutions_of

CLIPS = 7 + 1 + 4 + 9 + 2
SIZES = (5, 3, 8, 7)
"""Clips of the steps of an epoch, of two resolutions; their sum is CLIPS."""


@pytest.fixture(scope="module")
def index(uneven) -> ShardIndex:
    found = index_shards("*.tar", uneven)
    assert len(found.clips) == CLIPS == sum(SIZES)
    return found


def requests(rank: int, ranks: int, epochs: int = 1, step: int = 0) -> list[BatchRequest]:
    """Return a rank's shares of the steps from `step` on."""
    found, first = [], 0
    for number, size in enumerate(SIZES * epochs):
        share = Ranks(rank, ranks).share(size)
        side = Resolution.square((16, 24)[number % 2])
        found.append(BatchRequest(number, side, first + share.start, len(share)))
        first += size
    return found[step:]


def keys(index, wanted, workers=0) -> list[list[str]]:
    """Return the keys of each batch."""
    batches = load_batches(
        index,
        iter(wanted),
        seed=3,
        workers=workers,
        cutting=Cutting(frames=4, fps=8, flip=False, train=True),
    )
    return [batch.keys for batch in batches]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_all_ranks_together_read_each_clip_once_an_epoch(index, ranks):
    """The batch of a step is the same, in the same order, for any number of ranks."""
    alone = keys(index, requests(0, 1, epochs=2))
    shares = [keys(index, requests(rank, ranks, epochs=2)) for rank in range(ranks)]
    steps = [[*chain(*parts)] for parts in zip(*shares, strict=True)]
    assert steps == alone
    half = len(SIZES)
    for epoch in (steps[:half], steps[half:]):
        assert Counter(chain(*epoch)) == Counter(clip.key for clip in index.clips)
    assert steps[:half] != steps[half:]
    for step in zip(*shares, strict=True):
        sizes = [len(share) for share in step]
        assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 1), (1, 2)])
def test_going_on_with_other_ranks_in_mid_epoch_loses_and_doubles_nothing(index, before, after):
    stopped_at = 2
    seen = Counter()
    for rank in range(before):
        seen.update(chain(*keys(index, requests(rank, before)[:stopped_at])))
    for rank in range(after):
        seen.update(chain(*keys(index, requests(rank, after, step=stopped_at), workers=1)))
    assert seen == Counter(clip.key for clip in index.clips)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_each_rank_change_nothing(index, workers):
    for rank in range(3):
        assert keys(index, requests(rank, 3), workers) == keys(index, requests(rank, 3))


def test_the_plan_of_a_run_asks_for_each_sample_once():
    """What the planner asks for, with two resolutions at random, is gapless over all ranks."""
    sections = {
        Resolution.square(16): ResolutionSection(batch=5),
        Resolution(16, 32): ResolutionSection(batch=3),
    }
    shapes = dict.fromkeys(sections, VideoShape.square(16, frames=4, context_len=4))
    space = ToySpace.of()
    planner = Planner(
        space=space,
        sampler=Uniform(Uniform.Config()),
        resolutions=resolutions_of(space, sections, shapes),
        steps=40,
        seed=1,
    )
    for ranks in (1, 2, 3):
        asked = Counter()
        for rank in range(ranks):
            for request in planner.requests(0, 0, Ranks(rank, ranks)):
                asked.update(range(request.first, request.first + request.size))
        assert asked == Counter(range(sum(planner.plan(step).clips for step in range(40))))
