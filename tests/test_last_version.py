"""What the version before the last made is still read: a bundle, a benchmark document, the state of a training."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file

from densepack_runtime.bundle import MANIFEST_NAME, MANIFEST_SCHEMA, PARITY_NAME, Bundle, Manifest
from tests.command_line import CommandLine, Outcome

LAST = Path(__file__).with_name("last_version")
QUESTIONS = 8
# Sums in another order, through 6 of 12 steps of 1e-3 that Adam makes of them.
ROUNDING = 1e-4
# What these add is the same for all tokens and changes no answer: their gradient is rounding, of which Adam makes steps
# of the whole rate, on each processor others.
WITHOUT_GRADIENT = ("key.bias", "qa_outputs.bias", "layer.1.output.LayerNorm.bias")
SIX_STEPS_APART = 2 * 6 * 1e-3


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A copy, since what is compiled for it is kept beside it."""
    return Path(shutil.copytree(LAST / "bundle", tmp_path / "bundle"))


def test_a_bundle_of_the_last_version_opens_and_answers_alike(bundle: Path, densepack: CommandLine) -> None:
    manifest = Bundle.open(bundle).manifest
    assert manifest.model.structure.heads_left == 8
    [plan] = manifest.engines
    assert (plan.precision, plan.compute_capabilities, plan.verdict) == ("fp16", ("8.6",), "built, not run")
    recorded = json.loads((bundle / PARITY_NAME).read_text(encoding="utf-8"))["rungs"][0]
    done = densepack("eval", bundle, "--squad", LAST / "train.json", "--limit", QUESTIONS, "--json")
    assert done.code == 0, done.err
    score = json.loads(done.out)
    assert (score["exact_match"], score["f1"]) == (recorded["exact_match"], recorded["f1"])
    done = densepack("parity", bundle, "--squad", LAST / "train.json", "--limit", QUESTIONS, "--write")
    assert done.code == 0, done.err
    assert Bundle.open(bundle).manifest.parity.passed
    assert densepack("doctor", bundle).code == 0


def test_a_manifest_of_the_last_version_is_written_as_it_was() -> None:
    text = (LAST / "bundle" / MANIFEST_NAME).read_text(encoding="utf-8")
    before, after = json.loads(text), json.loads(Manifest.from_json(text).to_json())
    changed = {"schema": MANIFEST_SCHEMA, "closed": [], "checksum": after["checksum"]}
    structure = before["model"]["structure"]
    structure |= {"schema": 2, "position_pad_id": None, "token_types": "fed", "embedding_size": None}  # as all BERTs
    assert after == {**before, **changed}


def test_a_benchmark_document_of_the_last_version_is_shown(
    bundle: Path, densepack: CommandLine, tmp_path: Path
) -> None:
    page = tmp_path / "report.html"
    done = densepack("report", bundle, "--bench", LAST / "bench.json", "--out", page)
    assert done.code == 0, done.err
    assert "bundle@dense" in page.read_text(encoding="utf-8")


def test_a_training_of_the_last_version_goes_on(densepack: CommandLine, tmp_path: Path) -> None:
    """It was stopped after step 6 of 12. On another processor it ends as a whole run does, up to rounding."""

    def prune(out: Path, state: Path, *more: str) -> Outcome:
        files = ("--teacher", LAST / "teacher", "--data", LAST / "train.json", "--state-dir", state, "--device", "cpu")
        sizes = ("--max-steps", 12, "--token-budget", 256, "--max-length", 32, "--doc-stride", 8)
        rates = ("--learning-rate", "1e-3", "--dropout", "0", "--attention-dropout", "0", "--threads", "1")
        return densepack("prune", LAST / "start", out, *files, *sizes, *rates, *more)

    every = ("--log-every", "3", "--save-every", "4")
    state = shutil.copytree(LAST / "state", tmp_path / "state")
    resumed = prune(tmp_path / "resumed", state, *every, "--resume")
    assert resumed.code == 0, resumed.err
    assert "going on from step 6 of 12" in resumed.err
    assert prune(tmp_path / "whole", tmp_path / "fresh", *every).code == 0
    found, wanted = (load_file(tmp_path / name / "model.safetensors") for name in ("resumed", "whole"))
    assert found.keys() == wanted.keys()
    for name in wanted:
        atol = SIX_STEPS_APART if name.endswith(WITHOUT_GRADIENT) else ROUNDING
        assert found[name].allclose(wanted[name], rtol=0, atol=atol), name
    start = load_file(LAST / "start" / "model.safetensors")
    assert any(not start[name].allclose(wanted[name], rtol=0, atol=20 * ROUNDING) for name in wanted)
