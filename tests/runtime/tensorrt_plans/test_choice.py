"""Plans and hosts: what fits, what does not and what is said about it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from densepack_runtime.bundle import MANIFEST, Bundle
from densepack_runtime.errors import BackendError, InputError
from densepack_runtime.host.flavours import Flavour
from densepack_runtime.host.gpus import Gpu
from densepack_runtime.host.here import Host
from densepack_runtime.host.records import data_from_record
from densepack_runtime.sessions.shapes import Profile, bucket_profiles
from densepack_runtime.tensorrt_plans.choice import choose_plan, misfit, require_plan
from densepack_runtime.tensorrt_plans.record import PlanEntry
from tests.plan_entries import plan_entry

H100 = Gpu(0, "NVIDIA H100", "9.0", "13.2", 80 * 2**30)
RTX = Gpu(0, "NVIDIA GeForce RTX 3090", "8.6", "13.0", 24 * 2**30)
INSTALLED: dict[Flavour, str] = {"tensorrt": "11.4.0.106", "tensorrt-rtx": "1.7.1.116"}
RTX_PLAN = plan_entry(
    plan="engines/rtx.plan",
    flavour="tensorrt-rtx",
    tensorrt_version="1.7.1.116",
    compute_capabilities=("7.5", "8.6", "12.0"),
    gpu="",
)


def bundle(*entries: PlanEntry) -> Bundle:
    return cast(Bundle, SimpleNamespace(folder=Path("bundle"), manifest=SimpleNamespace(engines=entries)))


def test_an_entry_survives_json() -> None:
    entry = plan_entry(warnings=("slow",), version_compatible=True)
    assert MANIFEST.record(json.loads(json.dumps(data_from_record(entry))), PlanEntry) == entry
    assert (entry.max_batch, entry.max_length) == (8, 128)


@pytest.mark.parametrize(
    ("change", "host", "message"),
    [
        ({}, Host(None, INSTALLED), "no NVIDIA GPU is here"),
        (
            {},
            Host(H100, {}),
            r"the plan needs tensorrt 11.4.0.106 and tensorrt is not installed: pip install 'densepack\[gpu\]'",
        ),
        (
            {"tensorrt_version": "10.16.1.11"},
            Host(H100, INSTALLED),
            "with tensorrt 10.16.1.11, here is 11.4.0.106. Rebuild it: densepack build-engine B --flavour tensorrt",
        ),
        (
            {"tensorrt_version": "11.5", "version_compatible": True},
            Host(H100, INSTALLED),
            "built with tensorrt 11.5, here is 11.4.0.106",
        ),
        (
            {},
            Host(RTX, INSTALLED),
            r"for compute capability 9.0 \(NVIDIA H100\), here is NVIDIA GeForce RTX 3090 with 8.6. Rebuild it on this",
        ),
    ],
)
def test_a_misfit_names_both_sides_and_the_cure(change: dict[str, Any], host: Host, message: str) -> None:
    reason = misfit(plan_entry(**change), host, "B")
    assert reason is not None
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(reason)


def test_what_fits() -> None:
    assert misfit(plan_entry(), Host(H100, INSTALLED)) is None
    older = plan_entry(tensorrt_version="10.16.1.11", version_compatible=True)
    assert misfit(older, Host(H100, INSTALLED)) is None
    assert misfit(RTX_PLAN, Host(RTX, INSTALLED)) is None
    assert misfit(RTX_PLAN, Host(H100, INSTALLED)) is not None


def test_the_best_plan_that_fits_is_taken() -> None:
    single = plan_entry(plan="engines/fp32.plan", precision="fp32")
    chosen = choose_plan([RTX_PLAN, single, plan_entry()], Host(H100, INSTALLED))
    assert chosen.entry is not None
    assert chosen.entry.plan == "engines/a.plan"
    assert "engines/a.plan fits NVIDIA H100" in chosen.reason
    assert choose_plan([RTX_PLAN, single], Host(H100, INSTALLED), "fp32").entry == single
    assert choose_plan([RTX_PLAN, plan_entry()], Host(RTX, INSTALLED)).entry == RTX_PLAN


def test_every_reason_is_told_when_none_fits() -> None:
    chosen = choose_plan([RTX_PLAN, plan_entry(tensorrt_version="10.0")], Host(H100, INSTALLED))
    with pytest.raises(BackendError, match=r"engines/a\.plan: .*10\.0.*; engines/rtx\.plan: .*8\.6"):
        require_plan(chosen)
    with pytest.raises(BackendError, match="the bundle has no fp16 plan: densepack build-engine bundle"):
        require_plan(choose_plan([], Host(H100, INSTALLED), "fp16", "bundle"))


def test_profiles_from_buckets() -> None:
    profiles = bucket_profiles((64, 128, 256, 384), 32, max_length=384)
    assert [str(profile) for profile in profiles] == [
        "1x1 / 32x64 / 32x64",
        "1x65 / 32x128 / 32x128",
        "1x129 / 32x256 / 32x256",
        "1x257 / 32x384 / 32x384",
    ]
    assert all(any(profile.holds((8, length)) for profile in profiles) for length in range(1, 385))
    assert not any(profile.holds((33, 64)) for profile in profiles)
    assert [profile.max for profile in bucket_profiles((512, 64), 8, max_length=100)] == [(8, 64), (8, 100)]
    narrow = bucket_profiles((64,), 8, max_length=64, latency=True)
    assert [profile.max for profile in narrow] == [(1, 64), (8, 64)]
    assert len(bucket_profiles((64,), 1, max_length=64, latency=True)) == 1


@pytest.mark.parametrize(("lengths", "batch"), [((), 8), ((0, 64), 8), ((64,), 0)])
def test_impossible_buckets(lengths: tuple[int, ...], batch: int) -> None:
    with pytest.raises(InputError, match="profiles need a batch and lengths of at least 1"):
        bucket_profiles(lengths, batch, max_length=384)


def test_corners_are_given_once() -> None:
    assert Profile((1, 1), (8, 64), (8, 64)).corners() == ((1, 1), (8, 64))
    assert replace(Profile((1, 1), (1, 1), (1, 1))).corners() == ((1, 1),)
