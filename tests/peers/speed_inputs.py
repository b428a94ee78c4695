"""What the contestants run: the published shape with random weights, dense, pruned as published, and as bundles.

    python speed_inputs.py FOLDER ../../models/checkpoints/default/tokenizer.json [published | small]

writes dense/, stored/ (zeros inside, the published format), dense.bundle/ and packed.bundle/. What is there is kept.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from densepack_export.build import BuildOptions, build_bundle
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path

# As many layers (nn_pruning's optimize_model knows no other number) and much narrower ones: nothing to be measured, but
# it shows in minutes that everybody runs.
SMALL = replace(
    SEED,
    hidden_size=96,
    intermediate_size=384,
    layers=tuple(replace(layer, ffn_units=tuple(range(90)), ffn_width=90) for layer in SEED.layers),
)
SHAPES = {"published": SEED, "small": SMALL}


def main(out: str, tokenizer: str, shape: str = "published") -> None:
    folder, packed = Path(out), SHAPES[shape]
    checkpoints = {"dense": ("dense.bundle", packed.dense()), "stored": ("packed.bundle", packed)}
    for name, (bundle, structure) in checkpoints.items():
        if not (folder / name).exists():
            random_checkpoint(folder / name, structure, tokenizer_json=Path(tokenizer).read_text(encoding="utf-8"))
        if not (folder / bundle).exists():
            options = BuildOptions(squad=read_squad(sample_squad_path()), parity=False, engine=False)
            build_bundle(folder / name, folder / bundle, options, Story.silent())


if __name__ == "__main__":
    main(*sys.argv[1:])
