"""Fault injection: the call of a given name fails once, as the real one would."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Faults:
    """`plan("cudaMalloc", after=2)` lets two calls pass and the third fail. `calls` counts calls by name."""

    planned: dict[str, int] = field(default_factory=dict)
    calls: dict[str, int] = field(default_factory=dict)
    hit: list[str] = field(default_factory=list)

    def plan(self, name: str, after: int = 0) -> None:
        self.planned[name] = after

    def strikes(self, name: str) -> bool:
        """Whether this call is the one that fails."""
        self.calls[name] = self.calls.get(name, 0) + 1
        if name not in self.planned:
            return False
        self.planned[name] -= 1
        if self.planned[name] >= 0:
            return False
        del self.planned[name]
        self.hit.append(name)
        return True
