"""Every family goes the whole way: from a checkpoint on disk to a bundle whose rungs are all inside their limits."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from transformers import AutoConfig, AutoModelForQuestionAnswering, RobertaConfig, RobertaForQuestionAnswering
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from densepack_models.families import FAMILIES
from densepack_models.families.bert import BERT
from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.families.family import Family
from densepack_models.families.roberta import ROBERTA
from densepack_runtime.bundle import Bundle
from tests.command_line import CommandLine
from tests.conftest import REPOSITORY
from tests.models.tiny_checkpoints import written_checkpoint

# Contexts of the sample are 250 words and more, which tiny tokenizers spell in letters.
TEXTS = {
    "Who was born in Warsaw?": "Frédéric Chopin was born near Warsaw in 1810. He didn't like crowds.",
    "What is 東京?": " 東京 is the capital\u00a0of Japan 🎹, and it's far from </s> and [SEP]. ",
}
RUNGS = {"packed PyTorch", "ONNX FP32", "ONNX FP16", "OpenVINO FP32"}
WINDOWS = ("--max-length", 64, "--doc-stride", 8, "--no-engine")


@pytest.fixture
def squad(tmp_path: Path) -> Path:
    """Two questions, one of them in several windows."""
    path = tmp_path / "two.json"
    paragraphs = [
        {
            "context": context,
            "qas": [{"id": question, "question": question, "answers": [{"text": context[:4], "answer_start": 0}]}],
        }
        for question, context in TEXTS.items()
    ]
    path.write_text(json.dumps({"version": "1.1", "data": [{"title": "two", "paragraphs": paragraphs}]}))
    return path


def rungs(bundle: Path) -> dict[str, str]:
    report = json.loads((bundle / "parity.json").read_text(encoding="utf-8"))
    return {rung["name"]: rung["status"] for rung in report["rungs"]}


# Dense ones where the arithmetic is another; XLM-R and CamemBERT have that of RoBERTa.
BUILT = [
    *((family, True) for family in FAMILIES),
    *((family, False) for family in (BERT, ROBERTA, DISTILBERT, ELECTRA)),
]


def built(densepack: CommandLine, folder: Path, squad: Path, family: Family, **kind: Any) -> Path:
    """A bundle of a tiny model (see `written_checkpoint`), all of whose rungs passed."""
    checkpoint = written_checkpoint(folder / "checkpoint", family, **kind)
    done = densepack("build", checkpoint, folder / "bundle", "--squad", squad, *WINDOWS)
    assert done.code == 0, done.err
    found = rungs(folder / "bundle")
    assert set(found) >= RUNGS
    assert set(found.values()) == {"reference", "passed"}
    return folder / "bundle"


def ask_as_the_document_does(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The Python of docs/families.md, where `bundle` lies."""
    monkeypatch.chdir(folder)
    text = (REPOSITORY / "docs" / "families.md").read_text(encoding="utf-8")
    [code] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    capsys.readouterr()
    exec(compile(code, "families.md", "exec"), {})
    told = ast.literal_eval(capsys.readouterr().out)
    assert told["answer"] == "It was built by Anna Berg."[told["start"] : told["end"]] != ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pruned"), BUILT, ids=lambda of: getattr(of, "model_type", "pruned" if of else "dense")
)
def test_every_rung_is_inside_its_limits(
    densepack: CommandLine,
    tmp_path: Path,
    squad: Path,
    family: Family,
    pruned: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sizes = {"hidden_size": 64, "num_layers": 2 if pruned else 1}  # heads that TensorRT can fuse
    bundle = built(densepack, tmp_path, squad, family, pruned=pruned, **sizes)
    ask_as_the_document_does(tmp_path, monkeypatch, capsys)
    assert ("token_type_ids" in inputs(bundle)) == (family.fixed.get("token_types", "fed") == "fed")
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is not installed: pip install 'densepack[rtx]'")
    for precision in ("fp32", "fp16"):
        done = densepack("build-engine", bundle, "--precision", precision, "--lengths", "64", "--max-batch", 4)
        assert done.code == 0, done.err
    plans = Bundle.open(bundle).manifest.engines
    assert [plan.precision for plan in plans] == ["fp32", "fp16"]


def inputs(bundle: Path) -> list[str]:
    """What the manifest says that the graphs take."""
    return [tensor["name"] for tensor in json.loads((bundle / "bundle.json").read_text(encoding="utf-8"))["inputs"]]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::densepack_runtime.bundle.UncheckedBundleWarning")
@pytest.mark.parametrize(
    ("family", "pruned"), BUILT, ids=lambda of: getattr(of, "model_type", "pruned" if of else "dense")
)
def test_built_without_parity(
    densepack: CommandLine, tmp_path: Path, squad: Path, family: Family, pruned: bool
) -> None:
    checkpoint = written_checkpoint(tmp_path / "checkpoint", family, pruned=pruned, num_layers=2 if pruned else 1)
    done = densepack("build", checkpoint, tmp_path / "bundle", "--squad", squad, "--no-parity", *WINDOWS)
    assert done.code == 0, done.err
    bundle = Bundle.open(tmp_path / "bundle")
    assert not bundle.manifest.parity.checked
    assert not (tmp_path / "bundle" / "parity.json").exists()
    left = {len(layer.heads) for layer in bundle.manifest.model.structure.layers}
    assert left == ({0, 2} if pruned else {4})
    asked = ("-q", "Who?", "-c", "Anna Berg built it.", "--backend", "onnxruntime", "--json")
    assert json.loads(densepack("answer", tmp_path / "bundle", *asked).out)["answer"] in "Anna Berg built it."


class MosaicConfig(RobertaConfig):  # type: ignore[no-untyped-call]
    model_type = "mosaic"
    attribute_map: ClassVar = {"hidden_size": "breadth", "num_hidden_layers": "depth"}


class MosaicForQuestionAnswering(RobertaForQuestionAnswering):  # type: ignore[no-untyped-call]
    """RoBERTa under another name, in files, too."""

    config_class = MosaicConfig
    base_model_prefix = "mosaic"

    def __init__(self, config: MosaicConfig) -> None:
        super().__init__(config)
        self._modules = {"mosaic": self._modules.pop("roberta"), **self._modules}

    def __getattr__(self, name: str) -> Any:  # asked for what is no attribute
        return super().__getattr__("mosaic" if name == "roberta" else name)


MOSAIC = replace(
    ROBERTA,
    model_type="mosaic",
    architecture="MosaicForQuestionAnswering",
    config_keys={**ROBERTA.config_keys, "hidden_size": "breadth", "num_layers": "depth"},
    prefix="mosaic.",
    encoders=("MosaicModel",),
)


@pytest.fixture
def mosaic() -> Iterator[Family]:
    """A family that nobody has, known to transformers and to densepack for one test."""
    AutoConfig.register("mosaic", MosaicConfig)
    AutoModelForQuestionAnswering.register(MosaicConfig, MosaicForQuestionAnswering)
    FAMILIES.append(MOSAIC)
    yield MOSAIC
    FAMILIES.remove(MOSAIC)
    AutoModelForQuestionAnswering._model_mapping._extra_content.pop(MosaicConfig)
    CONFIG_MAPPING._extra_content.pop("mosaic")


def test_a_family_that_is_added_goes_through_build_to_answers(
    densepack: CommandLine, tmp_path: Path, squad: Path, mosaic: Family
) -> None:
    bundle = built(densepack, tmp_path, squad, mosaic, num_layers=1)
    stored = json.loads((tmp_path / "checkpoint" / "config.json").read_text(encoding="utf-8"))
    assert (stored["model_type"], stored["breadth"], stored["depth"]) == ("mosaic", 32, 1)
    assert inputs(bundle) == ["input_ids", "attention_mask"]
    for backend in ("onnxruntime", "openvino"):
        for question, context in TEXTS.items():
            asked = ("-q", question, "-c", context, "--backend", backend, "--precision", "fp32", "--compat", "--json")
            done = densepack("answer", bundle, *asked)
            assert done.code == 0, done.err
            answer: dict[str, Any] = json.loads(done.out)
            assert answer["answer"] == context[answer["start"] : answer["end"]] != ""


def test_windows_that_the_positions_do_not_hold_are_refused(densepack: CommandLine, tmp_path: Path) -> None:
    """258 positions of which two are for padding: the limit is what fits, and not one less."""
    checkpoint = written_checkpoint(tmp_path / "checkpoint", ROBERTA)
    done = densepack("build", checkpoint, tmp_path / "bundle", "--max-length", 257)
    assert done.code == 1
    assert done.error_lines == [
        "error: windows of 257 tokens are longer than checkpoint can read: lower --max-length to 256"
    ]
    assert not (tmp_path / "bundle").exists()
