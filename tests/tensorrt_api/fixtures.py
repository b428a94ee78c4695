"""Fixtures of the true TensorRT APIs: they skip, with the reason, where a version cannot be had.

For tests/conftest.py: `from tests.tensorrt_api.fixtures import tensorrt_bindings, true_api`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tensorrt_api.bindings import VERSIONS, Bindings, BindingsUnavailable, default_cache, true_bindings
from tests.tensorrt_api.description import Api, describe

FindBindings = Callable[[str], Bindings]


@pytest.fixture(scope="session")
def tensorrt_bindings() -> FindBindings:
    """Called with one of VERSIONS: its bindings. What cannot be had is tried once."""
    reasons: dict[str, str] = {}

    def find(version: str) -> Bindings:
        try:
            if version not in reasons:
                return true_bindings(version, default_cache())
        except BindingsUnavailable as error:
            reasons[version] = str(error)
        pytest.skip(f"TensorRT {version} is not available: {reasons[version]}")

    return find


@pytest.fixture(scope="session", params=VERSIONS)
def true_api(request: pytest.FixtureRequest, tensorrt_bindings: FindBindings) -> Api:
    """Each of VERSIONS in turn."""
    return describe(tensorrt_bindings(str(request.param)))
