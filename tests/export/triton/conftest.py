"""Bundles to make repositories of: a tiny one with a plan for RTX, and the same with plans for two datacenter GPUs."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from densepack_runtime.bundle import Bundle, edit_bundle
from densepack_runtime.tensorrt_plans.record import PlanEntry
from tests.conftest import REPOSITORY
from tests.plan_entries import plan_entry

WithPlans = Callable[..., Path]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """Windows of 32 tokens that overlap by 8, and one plan: of TensorRT for RTX."""
    return Path(shutil.copytree(REPOSITORY / "tests" / "last_version" / "bundle", tmp_path / "bundle"))


@pytest.fixture
def with_plans(bundle: Path) -> WithPlans:
    """The bundle with these plans, whose files hold their own names."""

    def change(*plans: PlanEntry) -> Path:
        with edit_bundle(Bundle.open(bundle)) as draft:
            shutil.rmtree(draft.path("engines"))
            for plan in plans:
                draft.path(plan.plan).parent.mkdir(exist_ok=True)
                draft.path(plan.plan).write_text(plan.plan, encoding="utf-8")
            draft.manifest = replace(draft.manifest, engines=plans)
        return bundle

    return change


def h100(**changes: object) -> PlanEntry:
    return plan_entry(plan="engines/sm90.plan", **changes)


def a100(**changes: object) -> PlanEntry:
    return plan_entry(plan="engines/sm80.plan", compute_capabilities=("8.0",), gpu="NVIDIA A100", **changes)
