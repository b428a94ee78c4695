"""`densepack build-engine`, really built with TensorRT for RTX: the plan is in the bundle, or the bundle as before."""

from __future__ import annotations

import errno
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import onnx
import pytest

from densepack_export import bundle_changes
from densepack_export.bundle_changes import add_plan
from densepack_export.plans import into_bundle as engine_build
from densepack_export.plans.into_bundle import PlanRequest, plan_name
from densepack_runtime.bundle import Bundle, edit_bundle
from densepack_runtime.errors import ParityError
from densepack_runtime.host.here import Host
from densepack_runtime.host.story import Story
from densepack_runtime.parity.report import RungReport
from densepack_runtime.tensorrt_plans.record import PlanEntry
from tests.command_line import CommandLine
from tests.export.graphs.planted_graphs import compute_in_float32
from tests.runtime.tensorrt_plans.test_choice import RTX

pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'densepack[rtx]'")


@pytest.fixture
def folder(default_bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_bundle, tmp_path / "bundle"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_plans_of_both_precisions(densepack: CommandLine, folder: Path) -> None:
    done = densepack("build-engine", str(folder), "--max-batch", "8", "--latency")
    assert done.code == 0, done.err
    for told in ("43 of 43 matrix products", "6 fused (IAttention", "built, not run: no NVIDIA GPU is here"):
        assert told in " ".join((done.out + done.err).split())
    assert densepack("build-engine", str(folder), "--precision", "fp32", "--lengths", "128,384").code == 0
    bundle = Bundle.open(folder)
    half, single = bundle.manifest.engines
    assert [entry.plan for entry in (half, single)] == [
        "engines/tensorrt-rtx-fp16.plan",
        "engines/tensorrt-rtx-fp32.plan",
    ]
    assert half.verdict == single.verdict == "built, not run"
    assert (half.proof.half_products, single.proof.half_products) == (43, 0)
    assert len(half.profiles) == 8
    assert [str(profile) for profile in single.profiles] == ["1x1 / 32x128 / 32x128", "1x129 / 32x384 / 32x384"]
    assert half.onnx_sha256 == bundle.manifest.files["model.fp16.onnx"].sha256
    assert half.plan_sha256 == bundle.manifest.files[half.plan].sha256


def test_a_plan_replaces_its_like_and_no_other(densepack: CommandLine, folder: Path) -> None:
    small = ("--max-batch", "2", "--lengths", "384")
    for extra in ((), ("--compute-capability", "8.6", "--compute-capability", "8.9"), ("--optimization-level", "1")):
        assert densepack("build-engine", str(folder), *small, *extra).code == 0
    done = densepack("build-engine", str(folder), *small, "--json")
    assert json.loads(done.out)["plan"] == "engines/tensorrt-rtx-fp16.plan"
    entries = Bundle.open(folder).manifest.engines
    assert [(entry.plan, entry.compute_capabilities) for entry in entries] == [
        ("engines/tensorrt-rtx-sm86-sm89-fp16.plan", ("8.6", "8.9")),
        ("engines/tensorrt-rtx-fp16.plan", ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")),
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--compute-capability", "9.0"), "unknown compute capability 9.0"),
        (("--version-compatible",), "TensorRT for RTX has no version-compatible plans"),
        (("--flavour", "tensorrt"), "no NVIDIA GPU is here: build on that host"),
    ],
)
def test_what_cannot_be_leaves_the_bundle(
    densepack: CommandLine, folder: Path, options: tuple[str, ...], message: str
) -> None:
    before = content(folder)
    done = densepack("build-engine", str(folder), *options)
    assert done.code == 1
    [line] = done.error_lines
    assert message in line
    assert content(folder) == before
    assert not list(folder.parent.glob(".*"))


def test_a_float32_product_closes_the_gate(densepack: CommandLine, folder: Path) -> None:
    with edit_bundle(Bundle.open(folder)) as draft:
        model = onnx.load(draft.path("model.fp16.onnx"))
        compute_in_float32(model)
        draft.path("model.fp16.onnx").unlink()
        onnx.save(model, draft.path("model.fp16.onnx"))
    before = content(folder)
    done = densepack("build-engine", str(folder), "--lengths", "384")
    assert done.code == 1
    assert "1 of 43 matrix products are not in float16: /layer.0/ffn/output/MatMul" in done.err
    assert content(folder) == before
    assert densepack("build-engine", str(folder), "--lengths", "384", "--allow-fp32").code == 0
    [entry] = Bundle.open(folder).manifest.engines
    assert (entry.proof.half_products, entry.proof.products) == (42, 43)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_ctrl_c_and_a_full_disk_leave_the_bundle(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = content(folder)

    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(engine_build, "build_plan", fail)
    with pytest.raises(type(error)):
        add_plan(Bundle.open(folder), PlanRequest(), Story.silent())
    assert content(folder) == before
    assert not list(folder.parent.glob(".*"))


def test_a_full_disk_is_one_line(densepack: CommandLine, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "plan")

    monkeypatch.setattr(engine_build, "build_plan", fail)
    done = densepack("build-engine", str(folder))
    assert done.code == 1
    assert done.error_lines == ["error: [Errno 28] No space left on device: 'plan'"]


def test_a_wrong_plan_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content(folder)
    monkeypatch.setattr(Host, "here", lambda: Host(RTX, {"tensorrt-rtx": "1.7.1.116"}))
    wrong = RungReport("plan", "fp16", "failed", failures=("some logits are not finite",))
    checked: list[PlanEntry] = []

    def check(bundle: Bundle, entry: PlanEntry) -> list[RungReport]:
        checked.append(entry)
        return [wrong]

    monkeypatch.setattr(bundle_changes, "check_plan", check)
    with pytest.raises(ParityError, match="the plan is wrong, the bundle was left as it was: plan: some logits are"):
        add_plan(Bundle.open(folder), PlanRequest(lengths=(384,)), Story.silent())
    assert len(checked) == 1
    assert content(folder) == before
    good = replace(wrong, status="passed", failures=(), windows=12, span_agreement=100.0)
    monkeypatch.setattr(bundle_changes, "check_plan", lambda bundle, entry: [good])
    entry = add_plan(Bundle.open(folder), PlanRequest(lengths=(384,)), Story.silent())
    assert entry.verdict == "same best span in 100.00 % of 12 recorded windows"


def test_an_edited_bundle_is_refused(densepack: CommandLine, folder: Path) -> None:
    manifest = folder / "bundle.json"
    manifest.write_text(manifest.read_text().replace('"max_length": 384', '"max_length": 512'))
    done = densepack("build-engine", str(folder))
    assert done.code == 1
    assert "was changed after it was written" in done.err


def test_names_of_plans() -> None:
    rtx = PlanRequest(flavour="tensorrt-rtx", compute_capabilities=("12.0",)).settings()
    assert plan_name(rtx, "") == "tensorrt-rtx-sm120-fp16.plan"
    settings = PlanRequest(flavour="tensorrt", precision="fp32").settings()
    names = {plan_name(settings, gpu) for gpu in ("NVIDIA H100 80GB HBM3", "NVIDIA H200")}
    assert names == {"tensorrt-nvidia-h100-80gb-hbm3-fp32.plan", "tensorrt-nvidia-h200-fp32.plan"}


def test_plans_are_built_without_pytorch(folder: Path) -> None:
    """A GPU host builds its plan with TensorRT and onnx alone."""
    script = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'transformers', 'onnxscript')))\n"
        "from densepack_export.cli import main; sys.argv = ['densepack', 'build-engine', *sys.argv[1:]]; main()\n"
    )
    command = [sys.executable, "-c", script, str(folder), "--lengths", "384", "--max-batch", "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "6 fused" in done.stdout
