"""What the contestants run: the published shape with random weights, dense, pruned as published, and as bundles.

    python speed_inputs.py FOLDER ../../models/checkpoints/default/tokenizer.json

writes dense/, stored/ (zeros inside, the published format), dense.bundle/ and packed.bundle/. What is there is kept.
"""

from __future__ import annotations

import sys
from pathlib import Path

from densepack_export.build import BuildOptions, build_bundle
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.host.story import Story
from densepack_runtime.question_answering.squad import read_squad, sample_squad_path

CHECKPOINTS = {"dense": ("dense.bundle", SEED.dense()), "stored": ("packed.bundle", SEED)}


def main(out: str, tokenizer: str) -> None:
    folder = Path(out)
    for name, (bundle, structure) in CHECKPOINTS.items():
        if not (folder / name).exists():
            random_checkpoint(folder / name, structure, tokenizer_json=Path(tokenizer).read_text(encoding="utf-8"))
        if not (folder / bundle).exists():
            options = BuildOptions(squad=read_squad(sample_squad_path()), parity=False, engine=False)
            build_bundle(folder / name, folder / bundle, options, Story.silent())


if __name__ == "__main__":
    main(*sys.argv[1:])
