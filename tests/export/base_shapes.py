"""The shapes of roberta-base, distilbert-base and electra-base with random weights: what packing gives each family.

    python -m tests.export.base_shapes FOLDER

writes FOLDER/NAME-dense and FOLDER/NAME-pruned, a third of whose linear weights are left, as unevenly as the published
model's, and prints the `densepack bench` command that compares them. What is there is kept.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from densepack_models.families.distilbert import DISTILBERT
from densepack_models.families.electra import ELECTRA
from densepack_models.families.family import Family
from densepack_models.families.roberta import ROBERTA
from densepack_models.formats.replica import SEED, random_checkpoint
from densepack_runtime.structure import LayerStructure, Structure
from tests.models.tiny_checkpoints import tokenizer_of

# The published model has 45 % of its heads and 17 % of its FFN units: so many more units, and a third of all is left.
MORE_UNITS = 1.6
BACKENDS = ("openvino", "onnxruntime")


def _wider(layer: LayerStructure) -> LayerStructure:
    width = round(MORE_UNITS * layer.ffn_width)
    return replace(layer, ffn_units=tuple(range(width)), ffn_width=width)


PRUNED = replace(SEED, layers=tuple(map(_wider, SEED.layers)))
SHAPES: dict[str, tuple[Family, Structure]] = {
    "roberta-base": (
        ROBERTA,
        replace(
            PRUNED,
            vocab_size=50265,
            max_position_embeddings=514,
            type_vocab_size=1,
            layer_norm_eps=1e-5,
            position_pad_id=1,
            token_types="constant",
        ),
    ),
    "distilbert-base": (DISTILBERT, replace(PRUNED, layers=PRUNED.layers[::2], type_vocab_size=0, token_types="none")),
    "electra-base": (ELECTRA, replace(PRUNED, embedding_size=768)),
}


def write_shapes(folder: Path) -> Iterator[tuple[Path, Path]]:
    """Each family's dense and pruned checkpoint; what is there is kept."""
    for name, (family, pruned) in SHAPES.items():
        made = folder / f"{name}-dense", folder / f"{name}-pruned"
        for path, structure in zip(made, (pruned.dense(), pruned), strict=True):
            if not path.exists():
                random_checkpoint(path, structure, family=family, tokenizer_json=tokenizer_of(family, 400))
        yield made


def main(out: str) -> None:
    for dense, pruned in write_shapes(Path(out)):
        for backend in BACKENDS:
            document = pruned.with_name(f"{pruned.name}-{backend}.json")
            sys.stdout.write(
                f"densepack bench {dense}@packed-{backend} {pruned}@packed-{backend} --batches 1,8 --lengths 384 "
                f"--no-memory --out {document}\n"
            )


if __name__ == "__main__":
    main(*sys.argv[1:])
