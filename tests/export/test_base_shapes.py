"""The base shapes of the families are those of the hub's models, and the printed commands compare what was written."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from densepack_export.bench.names import SideName
from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.packing import pack
from tests.export import base_shapes

# `AutoModelForQuestionAnswering` of each configuration, counted by transformers.
PARAMETERS = {"roberta-base": 124_056_578, "distilbert-base": 66_364_418, "electra-base": 108_893_186}


def test_dense_ones_have_the_size_of_the_hubs_and_a_third_is_left() -> None:
    shapes = {name: pruned for name, (_, pruned) in base_shapes.SHAPES.items()}
    assert {name: pruned.dense().parameters for name, pruned in shapes.items()} == PARAMETERS
    assert [pruned.linear_density for pruned in shapes.values()] == pytest.approx([1 / 3] * 3, abs=0.005)


def test_the_printed_commands_compare_dense_with_pruned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, (family, pruned) = "distilbert-base", base_shapes.SHAPES["distilbert-base"]
    narrow = replace(pruned, vocab_size=400, hidden_size=96, layers=pruned.layers[:1])
    monkeypatch.setattr(base_shapes, "SHAPES", {name: (family, narrow)})
    base_shapes.main(str(tmp_path))
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    sides = [[SideName.parse(side) for side in command[2:4]] for command in commands]
    assert [{side.kind.backend for side in pair} for pair in sides] == [{"openvino"}, {"onnxruntime"}]
    for pair in sides:
        costs = [pack(load_checkpoint(side.source)).structure.cost for side in pair]
        assert costs == [narrow.dense().cost, narrow.cost]
