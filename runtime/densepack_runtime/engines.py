"""What a bundle says about its TensorRT plans, and which of them fits this host.

    choice = choose_plan(bundle, Host.here())
    choice.entry, choice.reason

A plan is checked against its own record before TensorRT sees it: TensorRT says no more than None about a plan of
another version, and nothing at all without a GPU.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal

from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.gpus import Gpu, nvidia_gpus
from densepack_runtime.session import ComputePrecision, Precision

if TYPE_CHECKING:
    from densepack_runtime.bundle import Bundle

Flavour = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = ("tensorrt", "tensorrt-rtx")
MODULES: dict[Flavour, str] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
EXTRAS: dict[Flavour, str] = {"tensorrt": "gpu", "tensorrt-rtx": "rtx"}
_DISTRIBUTIONS: dict[Flavour, tuple[str, ...]] = {
    "tensorrt": ("tensorrt-cu13", "tensorrt-cu12", "tensorrt"),
    "tensorrt-rtx": ("tensorrt-rtx",),
}


@dataclass(frozen=True, slots=True)
class Profile:
    """Smallest, best and largest (batch, length) of one optimisation profile, the same for all three inputs."""

    min: tuple[int, int]
    opt: tuple[int, int]
    max: tuple[int, int]

    def __post_init__(self) -> None:
        """Refuse what TensorRT would refuse with less to go by. Raises InputError."""
        ordered = zip(self.min, self.opt, self.max, strict=True)
        if not all(1 <= smallest <= best <= largest for smallest, best, largest in ordered):
            raise InputError(f"the profile {self} cannot be: batch and length need 1 <= min <= opt <= max")

    def holds(self, shape: tuple[int, int]) -> bool:
        """Whether a batch of this (batch, length) can run in the profile."""
        return all(low <= size <= high for low, size, high in zip(self.min, shape, self.max, strict=True))

    def corners(self) -> tuple[tuple[int, int], ...]:
        """The smallest, best and largest shape, each once."""
        return tuple(dict.fromkeys((self.min, self.opt, self.max)))

    def __str__(self) -> str:
        return " / ".join(f"{batch}x{length}" for batch, length in (self.min, self.opt, self.max))


@dataclass(frozen=True, slots=True)
class EngineEntry:
    """One plan of a bundle: what it is, what it was built with and what it needs. Kept in the manifest.

    `compute_capabilities` are those that the plan has kernels for. `gpu` and `driver_cuda` are those of the host that
    built it, empty where a plan does not depend on them. `half_products` of `products` matrix products compute in
    float16; `proof` says what stayed in float32 and whether attention is fused. `verdict` says whether the saved plan
    was run and what came of it.
    """

    plan: str
    flavour: Flavour
    tensorrt_version: str
    precision: Precision
    compute_capabilities: tuple[str, ...]
    profiles: tuple[Profile, ...]
    flags: tuple[str, ...]
    plan_sha256: str
    onnx_sha256: str
    bytes: int
    seconds: float
    products: int
    half_products: int
    attention: str
    gpu: str = ""
    driver_cuda: str = ""
    version_compatible: bool = False
    proof: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    verdict: str = ""

    @classmethod
    def from_dict(cls, record: dict[str, Any]) -> EngineEntry:
        """The entry as the manifest holds it."""
        profiles = tuple(
            Profile(*(tuple(profile[name]) for name in ("min", "opt", "max"))) for profile in record["profiles"]
        )
        lists = {name: tuple(record[name]) for name in ("compute_capabilities", "flags", "warnings")}
        return cls(**{**record, **lists, "profiles": profiles})

    @property
    def max_batch(self) -> int:
        return max(profile.max[0] for profile in self.profiles)

    @property
    def max_length(self) -> int:
        return max(profile.max[1] for profile in self.profiles)


@dataclass(frozen=True, slots=True)
class Host:
    """What decides whether a plan runs: the first GPU, and the TensorRT versions that are installed, by flavour."""

    gpu: Gpu | None
    tensorrt: dict[Flavour, str]

    @classmethod
    def here(cls) -> Host:
        gpus = nvidia_gpus()
        versions = {flavour: installed_version(flavour) for flavour in FLAVOURS}
        return cls(gpus[0] if gpus else None, {name: found for name, found in versions.items() if found})


def installed_version(flavour: Flavour) -> str:
    """Version of a flavour's package without importing it; "" when it is not installed."""
    name = MODULES[flavour]
    if name not in sys.modules and importlib.util.find_spec(name) is None:
        return ""
    for distribution in _DISTRIBUTIONS[flavour]:
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return str(getattr(importlib.import_module(name), "__version__", ""))


def misfit(entry: EngineEntry, host: Host, folder: object = "BUNDLE") -> str | None:
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


def same_tensorrt(entry: EngineEntry, found: str) -> bool:
    """Whether the installed TensorRT can read a plan: the same version, or a later one for version-compatible plans."""
    if not entry.version_compatible:
        return found == entry.tensorrt_version
    return _numbers(found) >= _numbers(entry.tensorrt_version)


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(".") if part.isdigit()]


@dataclass(frozen=True, slots=True)
class PlanChoice:
    """The plan that would open, with the reason in words; `entry` is None where none fits."""

    entry: EngineEntry | None
    reason: str


def choose_plan(bundle: Bundle, host: Host, precision: ComputePrecision | None = None) -> PlanChoice:
    """The first plan of the bundle that fits the host: float16 before float32, datacenter TensorRT before RTX."""
    entries = [entry for entry in bundle.manifest.engines if precision in (None, entry.precision)]
    if not entries:
        wanted = f" {precision}" if precision else ""
        return PlanChoice(None, f"the bundle has no{wanted} plan: densepack build-engine {bundle.folder}")
    reasons = []
    for entry in sorted(entries, key=_preference):
        reason = misfit(entry, host, bundle.folder)
        if reason is None:
            return PlanChoice(entry, f"{entry.plan} fits {host.gpu} and {entry.flavour} {entry.tensorrt_version}")
        reasons.append(f"{entry.plan}: {reason}")
    return PlanChoice(None, "; ".join(reasons))


def _preference(entry: EngineEntry) -> tuple[bool, bool]:
    return entry.precision != "fp16", entry.flavour != "tensorrt"


def bucket_profiles(
    lengths: Sequence[int], max_batch: int, *, max_length: int, latency: bool = False
) -> tuple[Profile, ...]:
    """One profile per length bucket, each from the length after the one before it; `latency` adds batch 1 alone.

    One wide profile over two dynamic axes is slow (https://github.com/NVIDIA/TensorRT/issues/2115). Lengths beyond
    `max_length` are left out and it becomes the last bucket. Raises InputError for lengths that are not positive.
    """
    if max_batch < 1 or not lengths or min(lengths) < 1:
        raise InputError(f"profiles need a batch and lengths of at least 1, got {max_batch} and {list(lengths)}")
    edges = sorted({min(length, max_length) for length in lengths} | {max_length})
    starts = [1, *(edge + 1 for edge in edges)]
    wide = [Profile((1, start), (max_batch, end), (max_batch, end)) for start, end in zip(starts, edges, strict=False)]
    if not latency or max_batch == 1:
        return tuple(wide)
    narrow = [Profile((1, start), (1, end), (1, end)) for start, end in zip(starts, edges, strict=False)]
    return (*narrow, *wide)


def require_engine(choice: PlanChoice) -> EngineEntry:
    """The chosen plan. Raises BackendError with the reasons when none fits."""
    if choice.entry is None:
        raise BackendError(f"no TensorRT plan can run here: {choice.reason}")
    return choice.entry
