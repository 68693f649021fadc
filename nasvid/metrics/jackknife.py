"""Intervals by resampling: the jackknife over groups of clips."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

T = 2.093
"""97.5 % quantile of Student's t with 19 degrees of freedom, one less than there are groups."""


def half_width(left_out: Iterable[Sequence[float]]) -> float:
    """Return half the 95 % interval of a statistic of independent sets of clips.

    left_out: of each set, the statistic without each of its groups in turn.

    The delete-a-group jackknife (Shao and Tu, The Jackknife and Bootstrap, 1995, section 2.3) has
    no seed and needs a set's moments only. A bootstrap would draw clips twice, and so raise a
    Fréchet distance, which depends on how many different clips there are.
    """
    variance = 0.0
    for values in left_out:
        mean = math.fsum(values) / len(values)
        spread = math.fsum((value - mean) ** 2 for value in values)
        variance += spread * (len(values) - 1) / len(values)
    return T * math.sqrt(variance)
