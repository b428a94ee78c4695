"""Write a tiny model of every encoder family, whose pipeline answers `record_pipeline.py` then records.

    python -m tests.peers.family_checkpoints FOLDER

Random weights and tokenizers that were trained on a few sentences: the same on every machine.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.models.tiny_checkpoints import written_checkpoint

from densepack_models.families import FAMILIES

LONGEST = 256


def main(out: str) -> None:
    for family in FAMILIES:
        folder = written_checkpoint(Path(out) / family.model_type, family)
        settings = folder / "tokenizer_config.json"
        told = json.loads(settings.read_text(encoding="utf-8")) if settings.exists() else {}
        settings.write_text(json.dumps({**told, "model_max_length": LONGEST}), encoding="utf-8")
        sys.stderr.write(f"wrote {folder}: {sorted(path.name for path in folder.iterdir())}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
