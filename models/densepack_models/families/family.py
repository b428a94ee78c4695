"""What the files of an encoder family call things. Reading translates once; everything else speaks the packed module.

    BERT.canonical_name("bert.encoder.layer.3.output.dense.bias")       # "layer.3.ffn.output.bias"
    BERT.file_name("layer.3.ffn.output.bias")                           # and back

A block of a layer that has nothing left is a bare bias in the packed module ("layer.3.ffn.bias"); as a tensor it is
always called what it is in a block that has something left ("layer.3.ffn.output.bias").
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Family:
    """One family, as data.

    `model_type` and `architecture` are what config.json says. `config_keys` are its keys by the fields of `Structure`,
    `defaults` what it means by a key that is left out, `fixed` the fields that it has no key for. `modules` are names
    by the packed module's, `{}` in both the number of a layer; in files they stand behind `prefix`. The answer head is
    "qa_outputs" in all families, without a prefix. `older_spellings` are replaced in names; tensors whose name
    `ignored` matches do not count. `encoders` are the architectures of pretrained encoders, and `pretraining_heads`
    what some of them have on top. `tokenizer_classes` are the classes of transformers (without "Fast") that make words
    or spaces by tokenizer_config.json; `sentencepiece` is that of transformers.convert_slow_tokenizer that reads the
    family's sentencepiece.bpe.model.
    """

    model_type: str
    architecture: str
    config_keys: Mapping[str, str]
    defaults: Mapping[str, object]
    prefix: str
    modules: Mapping[str, str]
    older_spellings: Mapping[str, str]
    ignored: re.Pattern[str]
    encoders: tuple[str, ...]
    pretraining_heads: re.Pattern[str]
    fixed: Mapping[str, object] = field(default_factory=dict)
    tokenizer_classes: tuple[str, ...] = ()
    sentencepiece: str = ""

    def canonical_name(self, name: str) -> str:
        """The packed module's name for what a file calls `name`; what the family does not know keeps its name."""
        for old, new in self.older_spellings.items():
            name = name.replace(old, new)
        if not name.startswith(self.prefix):
            return name
        found = _renamed(name.removeprefix(self.prefix), ((theirs, ours) for ours, theirs in self.modules.items()))
        return found or name

    def file_name(self, name: str) -> str:
        """What files call a tensor or module that the packed module calls `name`; other names stay as they are."""
        found = _renamed(name, self.modules.items())
        return f"{self.prefix}{found}" if found else name

    def file_names(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Tensors under the names that they have in files, in the same order."""
        return {self.file_name(name): tensor for name, tensor in tensors.items()}


def _renamed(name: str, modules: Iterable[tuple[str, str]]) -> str | None:
    """`name` with the module that it is, or is below, under its other name; None where it is none of these."""
    for old, new in modules:
        pattern = re.escape(old).replace(re.escape("{}"), r"(\d+)")
        if found := re.match(rf"{pattern}(?=\.|$)", name):
            return new.format(*found.groups()) + name[found.end() :]
    return None
