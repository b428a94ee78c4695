"""What a bundle says about its TensorRT plans, and which of them fits this host.

    choice = choose_plan(bundle.manifest.engines, Host.here(), folder=bundle.folder)
    choice.entry, choice.reason

A plan is checked against its own record before TensorRT sees it: TensorRT says no more than None about a plan of
another version, and nothing at all without a GPU.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from densepack_runtime.errors import BackendError
from densepack_runtime.host.flavours import EXTRAS
from densepack_runtime.host.here import Host
from densepack_runtime.sessions.session import ComputePrecision
from densepack_runtime.tensorrt_plans.record import PlanEntry


def misfit(entry: PlanEntry, host: Host, folder: object = "BUNDLE") -> str | None:
    """Why a plan cannot run on a host, both sides named, with the command that mends it; None when it can."""
    mend = f"densepack build-engine {folder} --flavour {entry.flavour}"
    if host.gpu is None:
        return "no NVIDIA GPU is here: a TensorRT plan runs on nothing else"
    found = host.tensorrt.get(entry.flavour)
    if found is None:
        return (
            f"the plan needs {entry.flavour} {entry.tensorrt_version} and {entry.flavour} is not installed: pip "
            f"install 'densepack[{EXTRAS[entry.flavour]}]'"
        )
    if not same_tensorrt(entry, found):
        return f"the plan was built with {entry.flavour} {entry.tensorrt_version}, here is {found}. Rebuild it: {mend}"
    if entry.compute_capabilities and host.gpu.capability not in entry.compute_capabilities:
        return (
            f"the plan is for compute capability {', '.join(entry.compute_capabilities)}"
            f"{f' ({entry.gpu})' if entry.gpu else ''}, here is {host.gpu.name} with {host.gpu.capability}. "
            f"Rebuild it on this host: densepack build-engine {folder}"
        )
    return None


def same_tensorrt(entry: PlanEntry, found: str) -> bool:
    """Whether the installed TensorRT can read a plan: the same version, or a later one for version-compatible plans."""
    if not entry.version_compatible:
        return found == entry.tensorrt_version
    return _numbers(found) >= _numbers(entry.tensorrt_version)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdigit()]


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """The plan that would open, with the reason in words; `entry` is None where none fits."""

    entry: PlanEntry | None
    reason: str


def choose_plan(
    plans: Iterable[PlanEntry], host: Host, precision: ComputePrecision | None = None, folder: object = "BUNDLE"
) -> PlanChoice:
    """The first plan that fits the host: float16 before float32, datacenter TensorRT before RTX.

    `folder` is that of the bundle that has them, for the command in the reason.
    """
    entries = [entry for entry in plans if precision in (None, entry.precision)]
    if not entries:
        wanted = f" {precision}" if precision else ""
        return PlanChoice(None, f"the bundle has no{wanted} plan: densepack build-engine {folder}")
    reasons = []
    for entry in sorted(entries, key=_preference):
        reason = misfit(entry, host, folder)
        if reason is None:
            return PlanChoice(entry, f"{entry.plan} fits {host.gpu} and {entry.flavour} {entry.tensorrt_version}")
        reasons.append(f"{entry.plan}: {reason}")
    return PlanChoice(None, "; ".join(reasons))


def _preference(entry: PlanEntry) -> tuple[bool, bool]:
    return entry.precision != "fp16", entry.flavour != "tensorrt"


def require_plan(choice: PlanChoice) -> PlanEntry:
    """The chosen plan. Raises BackendError with the reasons when none fits."""
    if choice.entry is None:
        raise BackendError(f"no TensorRT plan can run here: {choice.reason}")
    return choice.entry
