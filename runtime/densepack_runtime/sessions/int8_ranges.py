"""How large the inputs of products with weights become: what INT8 with scales that never change is made from.

    ranges = Int8Ranges.read(folder / INT8_RANGES_NAME)
    ranges["layer.0.attention.query"]       # float32 [inputs]: a value divided by its range lies between -1 and 1

Measured on real windows when a bundle is built (`densepack_export.graphs.int8_error`), for the products that bear it.
A product is called after its module; its node in the graph is that name's (`product_name`).
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from densepack_runtime.errors import BundleError

INT8_RANGES_NAME = "int8_ranges.npz"
_OPERATOR = "MatMul"


class Int8Ranges(Mapping[str, NDArray[np.float32]]):
    """The range of every input of each product that bears INT8, float32 [inputs], above 0; {} where none does.

    Raises BundleError for what cannot be divided by.
    """

    def __init__(self, ranges: Mapping[str, NDArray[np.float32]]) -> None:
        self._ranges = {name: np.ascontiguousarray(values, np.float32) for name, values in ranges.items()}
        for name, values in self._ranges.items():
            if values.ndim != 1 or not (np.isfinite(values).all() and (values > 0).all()):
                raise BundleError(f"the INT8 ranges of {name} are not finite numbers above 0: build the bundle again")

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        return self._ranges[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._ranges)

    def __len__(self) -> int:
        return len(self._ranges)

    def save(self, path: Path) -> None:
        """Write the .npz (no pickles inside)."""
        arrays: dict[str, Any] = self._ranges
        np.savez_compressed(path, **arrays)

    @classmethod
    def read(cls, path: Path) -> Int8Ranges:
        """Raises BundleError when the file is not what `save` writes."""
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return cls({name: arrays[name] for name in arrays.files})
        except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile) as error:
            raise BundleError(
                f"{path} holds no INT8 ranges ({error}): copy the bundle again or build it again"
            ) from error


def product_name(node: str) -> str:
    """'layer.0.attention.query' of the node '/layer.0/attention/query/MatMul'; '' for any other node."""
    path, _, operator = node.strip("/").rpartition("/")
    return path.replace("/", ".") if operator == _OPERATOR else ""
