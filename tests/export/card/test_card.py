"""The model card: what it says is what was read and measured, its pictures hold what they show, its example runs."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from huggingface_hub import ModelCard

from densepack_export.card import gather
from densepack_export.plots.matrices import block_map
from densepack_runtime.errors import InputError
from tests.command_line import CommandLine

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(default_checkpoint: Path, tmp_path: Path) -> Path:
    """The default checkpoint without its card and its history."""
    names = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
    (tmp_path / "model").mkdir()
    for name in names:
        shutil.copy(default_checkpoint / name, tmp_path / "model" / name)
    return tmp_path / "model"


@pytest.fixture
def measured(tmp_path: Path) -> dict[str, Path]:
    """Files as `densepack eval --json` and `densepack bench --out` write them."""
    ratio = {
        "base": "d",
        "side": "p",
        "batch": 8,
        "length": 384,
        "median": 2.5,
        "min": 2.4,
        "max": 2.6,
        "flop_limit": 3,
    }
    documents: dict[str, Any] = {
        "eval": {"squad": "dev.json", "sha256": "0", "exact_match": 71.25, "f1": 81.125, "count": 10570},
        "original-eval": {"squad": "dev.json", "sha256": "0", "exact_match": 72.0, "f1": 81.5, "count": 10570},
        "bench": {
            "ratios": [ratio],
            "hardware": {"cores": 2, "processor": "a processor"},
            "versions": {"onnxruntime": "1.32.0"},
            "squad": {"file": "dev.json", "questions": 1000, "ratios": [{**ratio, "median": 2.25}]},
        },
        "trade-offs": [
            {"name": n, "linear_density": d, "heads": h, "exact_match": 70.0, "f1": f, "speed_up": s, **more}
            for n, d, h, f, s, more in (
                ("small", 0.2, 20, 79.5, 3.0, {}),
                ("large", 0.5, 50, 81.0, 1.5, {"questions": 1510}),
            )
        ],
    }
    paths = {name: tmp_path / f"{name}.json" for name in documents}
    for name, document in documents.items():
        paths[name].write_text(json.dumps(document), encoding="utf-8")
    return paths


def write_history(folder: Path) -> None:
    first = {"command": "prune", "steps": 30, "questions": 64, "command_line": "densepack prune a b --teacher a"}
    first["result"] = {"linear_density": 0.4, "heads": 40}
    last = {**first, "command": "fill", "command_line": "densepack fill b c --teacher a", "before": first}
    last["teacher"] = {"source": "a"}
    (folder / "training.json").write_text(json.dumps(last), encoding="utf-8")
    header = "stage,step,loss,ce,kd,reg,tau,lambda,density,heads,em,f1,seconds"
    rows = ["prune,10,1,1,1,1,0.1,3,0.4,40,,,5", "fill,10,0.5,0.5,0.5,,,,,,70,80,9"]
    (folder / "training_log.csv").write_text("\n".join((header, *rows)) + "\n", encoding="utf-8")


def test_a_card_says_what_was_measured(densepack: CommandLine, folder: Path, measured: dict[str, Path]) -> None:
    write_history(folder)
    options = [part for name, path in measured.items() for part in (f"--{name}", path)]
    about = "From a *teacher*."
    done = densepack("card", folder, "--title", "A model", "--about", about, "--license", "cc-by-sa-4.0", *options)
    assert done.code == 0, done.err
    card = ModelCard.load(folder / "README.md")
    scores = {result.metric_type: result.metric_value for result in card.data.eval_results or []}
    assert scores == {"exact_match": 71.25, "f1": 81.125}
    assert (card.data.license, card.data.pipeline_tag) == ("cc-by-sa-4.0", "question-answering")
    for said in (
        "# A model\n\nFrom a *teacher*.",
        "| change | -0.75 | -0.38 |",
        "| 8 x 384 | p against d | 2.50 | 2.40 to 2.60 | 3.00 |",
        "| dev.json, 1,000 questions | p against d | 2.25 | 2.40 to 2.60 | 3.00 |",
        "on 2 cores of a processor, onnxruntime 1.32.0",
        "densepack prune a b --teacher a\ndensepack fill b c --teacher a",
        "| prune | 30 | 64 | 40.0 % | 40 |",
        "| large | 50.0 % | 50 | 70.00 | 81.00 | 1.50 | 1,510 |\n| small | 20.0 % | 20 | 70.00 | 79.50 | 3.00 |  |",
        "26.0 % of the linear weights are left, 38 of 72 heads are gone",
        "learnt from the teacher `a`",
    ):
        assert said in card.content
    for picture in re.findall(r"\]\((\w+\.svg)\)", card.content):
        assert ElementTree.parse(folder / picture).getroot().tag == f"{SVG}svg"
    assert len(re.findall(r"\.svg", card.content)) == 4


def test_a_card_names_the_method_that_pruned(densepack: CommandLine, folder: Path, default_checkpoint: Path) -> None:
    shutil.copy(default_checkpoint / "training.json", folder / "training.json")  # a cut between two trainings
    assert densepack("card", folder).code == 0
    card = ModelCard.load(folder / "README.md")
    assert card.data.tags == ["bert", "question-answering", "pruning", "second-order-pruning"]
    assert "| shrink |  | 87,575 | 26.0 % | 34 |" in card.content


def test_a_card_without_measurements_is_shorter(densepack: CommandLine, folder: Path) -> None:
    assert densepack("card", folder).code == 0
    text = (folder / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == ["What is left", "Use"]
    assert "model-index" not in text
    before = text
    [line] = densepack("card", folder).error_lines
    assert "exists already: pass --overwrite" in line
    assert densepack("card", folder, "--overwrite").code == 0
    assert (folder / "README.md").read_text(encoding="utf-8") == before


def test_pictures_hold_what_they_show(densepack: CommandLine, folder: Path) -> None:
    assert densepack("card", folder).code == 0
    facts = gather(folder)
    density = ElementTree.parse(folder / "density.svg").getroot()
    bars = {element.get("data-matrix"): element for element in density.iter() if element.get("class") == "matrix-bar"}
    details = {element.get("data-matrix") for element in density.iter() if element.get("class") == "matrix-detail"}
    style = next(density.iter(f"{SVG}style"))
    for layer in range(6):
        for place, name in enumerate(("query", "key", "value", "output", "FFN in", "FFN out")):
            share = 100 * facts.inspection.layers[layer].densities[name]
            key = f"{layer}-{place}"
            title = bars[key].find(f"{SVG}title")
            assert title is not None
            assert title.text == f"layer {layer}, {name}: {share:.1f} %"
            assert key in details
            rule = f'svg:has(.matrix-bar[data-matrix="{key}"]:hover) .matrix-detail[data-matrix="{key}"]'
            assert rule in (style.text or "")
    heads = "".join(ElementTree.parse(folder / "heads.svg").getroot().itertext())
    assert "34 heads left, 38 of 72 removed" in heads
    once = (folder / "density.svg").read_bytes()
    assert densepack("card", folder, "--overwrite").code == 0
    assert (folder / "density.svg").read_bytes() == once


def test_blocks_of_a_matrix() -> None:
    matrix = np.zeros((70, 64))
    matrix[0, 63] = matrix[69, 0] = 1
    assert block_map(matrix).tolist() == [[False, True], [False, False], [True, False]]
    assert block_map(np.zeros((0, 0))).shape == (0, 0)


def test_the_example_of_use_runs(densepack: CommandLine, folder: Path, default_bundle: Path, tmp_path: Path) -> None:
    assert densepack("card", folder).code == 0
    [code] = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "bundle").symlink_to(default_bundle)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )
    assert done.stdout.startswith("Marta Lindqvist 49 64 0.")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("eval", "{", "x.json cannot be read (it is not JSON: "),
        ("eval", "{}", "lacks squad, exact_match, f1, count: was it written by densepack?"),
        (
            "eval",
            '{"squad": "s", "exact_match": "x", "f1": 1, "count": 1}',
            "Expected `float`, got `str` - at `exact_match`",
        ),
        ("bench", "[]", "Expected `object`, got `array`"),
        ("bench", "{}", "lacks ratios, hardware, versions"),
        ("trade-offs", '[{"name": "a"}]', "missing required field `linear_density` - at `[0]`"),
        ("trade-offs", "{}", "Expected `array`, got `object`"),
    ],
)
def test_measurements_that_are_none(
    densepack: CommandLine, folder: Path, tmp_path: Path, name: str, content: str, message: str
) -> None:
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    [line] = densepack("card", folder, f"--{name}", tmp_path / "x.json").error_lines
    assert message in line
    assert not (folder / "README.md").exists()


def test_a_card_needs_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder"):
        gather(tmp_path / "nowhere")
