"""What `densepack triton` writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from densepack_runtime.bundle import Bundle
from densepack_runtime.sessions.shapes import Profile
from densepack_runtime.tensorrt_plans.record import PlanEntry
from tests.command_line import CommandLine, Outcome
from tests.export.triton.conftest import WithPlans, a100, h100
from tests.plan_entries import plan_entry

ENGINE, TEXTS = "question_answering_engine", "question_answering"
TENSORS = """\
input {
  name: "input_ids"
  data_type: TYPE_INT64
  dims: -1
}
input {
  name: "attention_mask"
  data_type: TYPE_INT64
  dims: -1
}
input {
  name: "token_type_ids"
  data_type: TYPE_INT64
  dims: -1
}
output {
  name: "start_logits"
  data_type: TYPE_FP32
  dims: -1
}
output {
  name: "end_logits"
  data_type: TYPE_FP32
  dims: -1
}
"""
QUEUE = """\
dynamic_batching {
  max_queue_delay_microseconds: 0
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 10000000
    allow_timeout_override: true
    max_queue_size: 1024
  }
}
"""


def warm_up(rows: int, length: int) -> str:
    inputs = "".join(
        f'  inputs {{\n    key: "{name}"\n    value {{\n      data_type: TYPE_INT64\n      dims: {length}\n'
        "      zero_data: true\n    }\n  }\n"
        for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    return f'model_warmup {{\n  name: "{rows} x {length}"\n  batch_size: {rows}\n{inputs}}}\n'


CPU = f"""\
name: "{ENGINE}"
platform: "onnxruntime_onnx"
backend: "onnxruntime"
instance_group {{
  count: 1
  kind: KIND_CPU
}}
max_batch_size: 64
{TENSORS}{QUEUE}{warm_up(1, 32)}{warm_up(64, 32)}"""
PLANS = f"""\
name: "{ENGINE}"
platform: "tensorrt_plan"
backend: "tensorrt"
cc_model_filenames {{
  key: "9.0"
  value: "sm90.plan"
}}
cc_model_filenames {{
  key: "8.0"
  value: "sm80.plan"
}}
instance_group {{
  count: 1
  kind: KIND_GPU
  profile: "0"
  profile: "1"
}}
max_batch_size: 8
{TENSORS}{QUEUE}{warm_up(8, 64)}{warm_up(8, 128)}"""
QUESTION_ANSWERING = f"""\
name: "{TEXTS}"
backend: "python"
max_batch_size: 64
input {{
  name: "question"
  data_type: TYPE_STRING
  dims: 1
}}
input {{
  name: "context"
  data_type: TYPE_STRING
  dims: 1
}}
output {{
  name: "answer"
  data_type: TYPE_STRING
  dims: 1
}}
output {{
  name: "start"
  data_type: TYPE_INT32
  dims: 1
}}
output {{
  name: "end"
  data_type: TYPE_INT32
  dims: 1
}}
output {{
  name: "score"
  data_type: TYPE_FP64
  dims: 1
}}
instance_group {{
  count: 1
  kind: KIND_CPU
}}
{QUEUE}"""


def written(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(done: Outcome) -> None:
    assert done.code == 0, done.err


def refused(done: Outcome) -> str:
    assert done.code == 1
    [line] = done.error_lines
    return line


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "models"


def test_the_graph_on_the_cpu(densepack: CommandLine, bundle: Path, out: Path) -> None:
    done = densepack("triton", bundle, out, "--device", "cpu")
    made(done)
    assert f"wrote {out}: {TEXTS}, and {ENGINE} (onnxruntime_onnx: model.onnx)" in done.err
    assert done.next_step == f"tritonserver --model-repository {out}"
    files = written(out)
    assert sorted(files) == [
        "README.md",
        "densepack.json",
        f"{TEXTS}/1/model.py",
        f"{TEXTS}/1/settings.json",
        f"{TEXTS}/1/tokenizer.json",
        f"{TEXTS}/config.pbtxt",
        f"{ENGINE}/1/model.onnx",
        f"{ENGINE}/config.pbtxt",
    ]
    assert files[f"{ENGINE}/config.pbtxt"].decode() == CPU
    assert files[f"{TEXTS}/config.pbtxt"].decode() == QUESTION_ANSWERING
    assert files[f"{ENGINE}/1/model.onnx"] == (bundle / "model.onnx").read_bytes()
    assert files[f"{TEXTS}/1/tokenizer.json"] == (bundle / "tokenizer.json").read_bytes()
    assert json.loads(files["densepack.json"])["bundle"] == Bundle.open(bundle).sha256
    assert (
        "`model.onnx` on Triton's ONNX Runtime backend. It was checked with ONNX Runtime 1.32.0."
        in files["README.md"].decode()
    )


def test_the_graph_on_a_gpu_is_float16_unless_told_otherwise(densepack: CommandLine, bundle: Path, out: Path) -> None:
    made(densepack("triton", bundle, out, "--device", "gpu"))
    files = written(out)
    wanted = CPU.replace("KIND_CPU", "KIND_GPU")
    assert files[f"{ENGINE}/config.pbtxt"].decode() == wanted
    assert files[f"{ENGINE}/1/model.onnx"] == (bundle / "model.fp16.onnx").read_bytes()
    assert files[f"{TEXTS}/config.pbtxt"].decode() == QUESTION_ANSWERING.replace("count: 1", "count: 2")
    assert json.loads(files[f"{TEXTS}/1/settings.json"])["batches"] == {
        "token_budget": 4096,
        "length_multiple": 64,
        "max_batch": 64,
    }
    made(densepack("triton", bundle, out, "--device", "gpu", "--precision", "fp32", "--overwrite"))
    assert written(out)[f"{ENGINE}/1/model.onnx"] == (bundle / "model.onnx").read_bytes()


def test_a_bundle_without_plans_runs_its_graph_on_the_cpu(
    densepack: CommandLine, with_plans: WithPlans, out: Path
) -> None:
    made(densepack("triton", with_plans(), out))
    assert written(out)[f"{ENGINE}/config.pbtxt"].decode() == CPU


def test_plans_of_two_gpus(densepack: CommandLine, with_plans: WithPlans, out: Path) -> None:
    bundle = with_plans(h100(), a100())
    done = densepack("triton", bundle, out, "--json")
    made(done)
    assert json.loads(done.out) == {
        "repository": str(out),
        "model": TEXTS,
        "engine": ENGINE,
        "platform": "tensorrt_plan",
    }
    files = written(out)
    assert files[f"{ENGINE}/config.pbtxt"].decode() == PLANS
    assert files[f"{ENGINE}/1/sm90.plan"] == b"engines/sm90.plan"
    assert files[f"{ENGINE}/1/sm80.plan"] == b"engines/sm80.plan"
    assert f"{ENGINE}/1/model.onnx" not in files
    assert json.loads(files[f"{TEXTS}/1/settings.json"])["batches"]["max_batch"] == 8
    readme = files["README.md"].decode()
    assert "| engines/sm80.plan | 11.4.0.106 | 8.0 (NVIDIA A100) | 1x1 / 8x64 / 8x64; 1x65 / 8x128 / 8x128 |" in readme
    assert f"densepack build-engine {bundle} --flavour tensorrt\n" in readme
    assert "version-compatible" not in readme


def test_a_gpu_gets_its_float16_plan_unless_told_otherwise(
    densepack: CommandLine, with_plans: WithPlans, out: Path
) -> None:
    bundle = with_plans(plan_entry(plan="engines/fp32", precision="fp32"), plan_entry(plan="engines/fp16"))
    made(densepack("triton", bundle, out))
    assert f"{ENGINE}/1/fp16" in written(out)
    made(densepack("triton", bundle, out, "--overwrite", "--precision", "fp32"))
    files = written(out)
    assert f"{ENGINE}/1/fp32" in files
    assert f"{ENGINE}/1/fp16" not in files


@pytest.mark.parametrize("newer_too", [True, False])
def test_version_compatible_plans_name_the_flag(
    densepack: CommandLine, with_plans: WithPlans, out: Path, newer_too: bool
) -> None:
    older = a100(version_compatible=True, tensorrt_version="11.3.0.1")
    made(densepack("triton", with_plans(h100(version_compatible=newer_too), older), out))
    readme = written(out)["README.md"].decode()
    assert "--exit-on-error=true --backend-config=tensorrt,version-compatible=true\n" in readme
    assert ("or a later one" in readme) == newer_too


def test_plans_for_rtx_are_refused_with_what_to_do(densepack: CommandLine, bundle: Path, out: Path) -> None:
    line = refused(densepack("triton", bundle, out))
    assert "Triton runs plans of the flavour tensorrt" in line
    assert "only engines/tensorrt-rtx-sm86-fp16.plan (tensorrt-rtx fp16)" in line
    assert f"densepack build-engine {bundle} --flavour tensorrt --precision fp16." in line
    assert "--device cpu or --device gpu" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (
            a100(tensorrt_version="10.16.1.11"),
            "its plans would need engines/sm90.plan 11.4.0.106, engines/sm80.plan 10",
        ),
        (a100(profiles=(Profile((1, 1), (4, 64), (4, 64)),)), "engines/sm80.plan 1x1 / 4x64 / 4x64. Rebuild with one:"),
    ],
)
def test_plans_that_no_server_runs_together_are_refused(
    densepack: CommandLine, with_plans: WithPlans, out: Path, other: PlanEntry, message: str
) -> None:
    line = refused(densepack("triton", with_plans(h100(), other), out))
    assert message in line
    assert "densepack build-engine" in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("--precision", "fp32"),
            "Triton runs fp32 plans of the flavour tensorrt, and the bundle has only engines/sm90",
        ),
        (("--null-threshold", "nan"), "the null threshold must be a finite number, not nan"),
        (("--name", "../x"), "a model's name has letters, digits, '_' and '-', it cannot be '../x'"),
        (("--name", "README.md"), "it cannot be 'README.md'"),
    ],
)
def test_what_cannot_be_written_is_refused(
    densepack: CommandLine, with_plans: WithPlans, out: Path, arguments: tuple[str, str], message: str
) -> None:
    assert message in refused(densepack("triton", with_plans(h100()), out, *arguments))
    assert not out.exists()


def test_options_reach_the_files(densepack: CommandLine, bundle: Path, out: Path) -> None:
    options = ("--name", "qa-12", "--timeout-ms", "50", "--max-queue", "7", "--null-threshold", "0.5")
    made(densepack("triton", bundle, out, "--device", "cpu", *options, "--truncate-question"))
    files = written(out)
    for name in ("qa-12", "qa-12_engine"):
        config = files[f"{name}/config.pbtxt"].decode()
        assert f'name: "{name}"' in config
        assert "default_timeout_microseconds: 50000\n" in config
        assert "max_queue_size: 7\n" in config
    settings = json.loads(files["qa-12/1/settings.json"])
    assert settings["engine"] == "qa-12_engine"
    assert settings["rules"]["null_threshold"] == 0.5
    assert settings["truncate_question"]


def test_only_a_repository_of_ours_is_replaced(densepack: CommandLine, bundle: Path, out: Path) -> None:
    made(densepack("triton", bundle, out, "--device", "cpu"))
    before = written(out)
    assert "exists already" in refused(densepack("triton", bundle, out, "--device", "gpu"))
    (out / "theirs").mkdir()
    (out / "theirs" / "config.pbtxt").write_text("name: 'theirs'", encoding="utf-8")
    line = refused(densepack("triton", bundle, out, "--device", "gpu", "--overwrite"))
    assert "it holds theirs/config.pbtxt, which densepack does not write there" in line
    shutil.rmtree(out / "theirs")
    assert written(out) == before
    made(densepack("triton", bundle, out, "--device", "gpu", "--overwrite"))
    assert "KIND_GPU" in written(out)[f"{ENGINE}/config.pbtxt"].decode()


@pytest.mark.parametrize(
    "marker", ["", "{}", '{"kind": "densepack bundle", "files": ["a"]}', '{"kind": 1, "files": 2}']
)
def test_a_folder_with_another_marker_is_not_replaced(
    densepack: CommandLine, bundle: Path, out: Path, marker: str
) -> None:
    out.mkdir()
    (out / "densepack.json").write_text(marker, encoding="utf-8")
    (out / "a").write_text("theirs", encoding="utf-8")
    assert "it holds a, densepack.json" in refused(densepack("triton", bundle, out, "--device", "cpu", "--overwrite"))
    assert (out / "a").read_text(encoding="utf-8") == "theirs"


def test_an_error_leaves_what_was_there(
    densepack: CommandLine, bundle: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(densepack("triton", bundle, out, "--device", "cpu"))
    before = written(out)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    assert "No space left on device" in refused(densepack("triton", bundle, out, "--device", "gpu", "--overwrite"))
    assert written(out) == before
    assert list(out.parent.glob(".*")) == []
