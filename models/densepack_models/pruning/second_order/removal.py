"""In which order the inputs of a projection go, and what is lost at each level: Optimal Brain Surgeon on groups.

With C the damped covariance of the inputs, M = C⁻¹ of those that are left and G the curvature at the output, a group S
costs tr(W_Sᵀ G W_S (M_SS)⁻¹) once all that stays makes up for it as well as it can, by W_S (M_SS)⁻¹ M_S. The cheapest
goes, M and W follow, and so on until nothing is left. The costs add up to tr(G ΔW C ΔWᵀ) of the least-squares refit.

    removal = removal_order(weight, covariance, curvature, size=1, at_once=8)
    removal.kept(level), removal.costs[level]
    refit(weight, covariance, kept_columns)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Of the mean diagonal. Between 1e-7 and 1e-2 the result hardly depends on it.
DAMPING = 1e-3
# From how many of the cheapest groups, for each that goes, those of a step are chosen one by one: removing one makes
# others dearer, above all its doubles, and hardly ever any cheaper.
_CANDIDATES = 8


@dataclass(frozen=True, slots=True)
class Removal:
    """The groups of one projection by when they go, and its levels: at level k the first `gone[k]` are gone, which
    costs `costs[k]`. Level 0 is the whole projection, at the last one nothing is left.
    """

    order: tuple[int, ...]
    gone: tuple[int, ...]
    costs: tuple[float, ...]

    def kept(self, level: int) -> list[int]:
        """The groups that are left at a level, ascending."""
        return sorted(self.order[self.gone[level] :])


def damped(covariance: Tensor, damping: float = DAMPING) -> Tensor:
    """The covariance with `damping` of its mean diagonal added to the diagonal; the identity where it is zero."""
    mean = covariance.diagonal().mean()
    ridge = torch.where(mean > 0, damping * mean, torch.ones_like(mean))
    return covariance + ridge * torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)


def removal_order(weight: Tensor, covariance: Tensor, curvature: Tensor, *, size: int, at_once: int) -> Removal:
    """Remove groups of `size` neighbouring columns, `at_once` a level, until none is left.

    float64: weight [outputs, inputs], damped covariance [inputs, inputs], curvature [outputs, outputs]. Of groups that
    cost the same, the first goes.
    """
    left = _Left(torch.cholesky_inverse(torch.linalg.cholesky(covariance)), weight, curvature @ weight, size)
    names = torch.arange(left.groups, device=weight.device)
    order: list[int] = []
    gone, costs = [0], [0.0]
    while len(names):
        chosen, cost = _cheapest(left, at_once)
        rest = _others(left.groups, chosen)
        order += names[chosen].tolist()
        gone.append(len(order))
        costs.append(costs[-1] + cost)
        names, left = names[rest], left.without(chosen, rest)
    return Removal(tuple(order), tuple(gone), tuple(costs))


def refit(weight: Tensor, covariance: Tensor, kept: Tensor) -> Tensor:
    """The weights [outputs, kept] that reproduce W x best from the kept inputs: W C[:, K] C[K, K]⁻¹."""
    among = covariance[kept]
    fitted: Tensor = torch.linalg.solve(among[:, kept], among @ weight.T).T
    return fitted


@dataclass(frozen=True, slots=True)
class _Left:
    """What is left of a projection: the inverse of its covariance [n, n], W and G W [outputs, n], in groups."""

    inverse: Tensor
    weight: Tensor
    weighed: Tensor
    size: int

    @property
    def groups(self) -> int:
        return len(self.inverse) // self.size

    def costs(self) -> Tensor:
        """What each group costs now, [groups]."""
        shape = (-1, self.groups, self.size)
        inverse = self.inverse.view(*shape[1:], *shape[1:]).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
        gram = torch.einsum("hgs,hgt->gst", self.weight.view(shape), self.weighed.view(shape))
        costs: Tensor = torch.linalg.solve(inverse, gram).diagonal(dim1=1, dim2=2).sum(1)
        return costs

    def columns(self, groups: Tensor) -> Tensor:
        return (groups[:, None] * self.size + torch.arange(self.size, device=groups.device)).flatten()

    def only(self, groups: Tensor) -> _Left:
        """The same with some groups in view; the others stay as they are."""
        seen = self.columns(groups)
        return _Left(self.inverse[seen][:, seen], self.weight[:, seen], self.weighed[:, seen], self.size)

    def without(self, groups: Tensor, rest: Tensor) -> _Left:
        """Remove groups, and let the rest make up for them."""
        out, stay = self.columns(groups), self.columns(rest)
        rows = self.inverse.index_select(0, out)  # [removed, n]
        across = rows.index_select(1, stay)
        follow = torch.linalg.solve(rows.index_select(1, out), across)
        inverse = self.inverse.index_select(0, stay).index_select(1, stay)
        weight, weighed = (
            part.index_select(1, stay).addmm_(part.index_select(1, out), follow, alpha=-1)
            for part in (self.weight, self.weighed)
        )
        return _Left(inverse.addmm_(across.T, follow, alpha=-1), weight, weighed, self.size)


def _cheapest(left: _Left, count: int) -> tuple[Tensor, float]:
    """The next groups to go, in order, and what they cost together."""
    names = left.costs().argsort(stable=True)[: _CANDIDATES * count].sort().values
    seen = left.only(names)
    chosen, total = [], torch.zeros((), dtype=torch.float64, device=names.device)
    for _ in range(min(count, len(names))):
        costs = seen.costs()
        first = costs.argsort(stable=True)[:1]
        rest = _others(seen.groups, first)
        chosen.append(names[first])
        total += costs[first].sum()
        names, seen = names[rest], seen.without(first, rest)
    return torch.cat(chosen), float(total)


def _others(count: int, chosen: Tensor) -> Tensor:
    """The numbers below `count` that are not chosen, ascending."""
    stays = torch.ones(count, dtype=torch.bool, device=chosen.device)
    stays[chosen] = False
    return stays.nonzero().flatten()
