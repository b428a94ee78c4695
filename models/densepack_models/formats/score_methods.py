"""How scores become a mask, by name: what options need to know about it, without torch."""

from __future__ import annotations

from typing import Literal, get_args

Method = Literal["sigmoid", "topk", "threshold", "magnitude", "l0"]
METHODS = get_args(Method)
# Methods whose threshold is the share of blocks that is kept.
RANKED: tuple[Method, ...] = ("topk", "magnitude")
# nn_pruning's floor, too: at least this share of a grid survives a threshold.
LEAST_SHARE = 0.005
