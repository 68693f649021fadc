"""The kernel distance of two sets of features, as in KVD.

KVD (Unterthiner et al., arXiv 1812.01717) is the squared maximum mean discrepancy, in its unbiased
form, with the kernel (xᵀy / d + 1)³, of the features of FVD. The reference recipes, those of TATS
(arXiv 2204.03638) and LVDM (arXiv 2211.13221), take all pairs of all clips once, without subsets
and unscaled. (KID, of images, is the mean over 100 subsets of 1,000.)
"""

from __future__ import annotations

import torch

from nasvid.metrics.frechet import GROUPS


class KernelSums:
    """The kernel's sums over pairs of features, by the groups that they are in.

    x, y: features `n d` of two sets; feature i is in group i mod `groups`. No more of the kernel's
    matrix is in memory than the rows of one group.
    """

    def __init__(self, x: torch.Tensor, y: torch.Tensor, groups: int = GROUPS) -> None:
        x, y = x.double().cpu(), y.double().cpu()
        self.sizes = torch.stack([_by_group(torch.ones_like(own[:, 0]), groups) for own in (x, y)])
        self.between = _sums(x, y, groups)
        self.within = [_sums(own, own, groups) - torch.diag(_same(own, groups)) for own in (x, y)]

    def distance(self, without: tuple[int | None, int | None] = (None, None)) -> float:
        """Return the unbiased squared discrepancy; negative values are possible.

        without: the groups of x and of y to leave out.
        """
        keep = torch.ones_like(self.sizes)
        for own, group in zip(keep, without, strict=True):
            if group is not None:
                own[group] = 0
        n, m = (keep * self.sizes).sum(dim=1)
        ours, theirs = (
            (own @ sums @ own) / (size * (size - 1))
            for own, sums, size in zip(keep, self.within, (n, m), strict=True)
        )
        return float(ours + theirs - 2 * (keep[0] @ self.between @ keep[1]) / (n * m))


def kernel_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """Return the unbiased squared discrepancy of features `n d` and `m d`, in float64."""
    return KernelSums(x, y).distance()


def _kernel(inner: torch.Tensor, dim: int) -> torch.Tensor:
    return (inner / dim + 1) ** 3


def _sums(x: torch.Tensor, y: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the kernel's sum over each pair of groups, `g g`."""
    rows = (_kernel(x[group::groups] @ y.T, x.shape[1]).sum(dim=0) for group in range(groups))
    return torch.stack([_by_group(row, groups) for row in rows])


def _same(x: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the kernel's sum over the pairs of a feature and itself, by group."""
    return _by_group(_kernel(x.square().sum(dim=1), x.shape[1]), groups)


def _by_group(values: torch.Tensor, groups: int) -> torch.Tensor:
    """Return the sums of values `n` over the members of each group."""
    return values.new_zeros(groups).index_add(0, torch.arange(len(values)) % groups, values)
