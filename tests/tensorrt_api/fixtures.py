"""Fixtures of the true TensorRT APIs: they skip, with the reason, where a version cannot be had.

For tests/conftest.py: `from tests.tensorrt_api.fixtures import describe_tensorrt, tensorrt_bindings`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.tensorrt_api.bindings import Bindings, BindingsUnavailable, default_cache, true_bindings
from tests.tensorrt_api.description import RTX, VERSIONS, Api, describe

DescribeTensorrt = Callable[[str], Api]
FindBindings = Callable[[str], Bindings]


@pytest.fixture(scope="session")
def tensorrt_bindings() -> FindBindings:
    """Called with one of DATACENTER_VERSIONS: its bindings. What cannot be had is tried once."""
    reasons: dict[str, str] = {}

    def find(version: str) -> Bindings:
        try:
            if version not in reasons:
                return true_bindings(version, default_cache())
        except BindingsUnavailable as error:
            reasons[version] = str(error)
        pytest.skip(f"TensorRT {version} is not available: {reasons[version]}")

    return find


@pytest.fixture(scope="session")
def describe_tensorrt(tensorrt_bindings: FindBindings) -> DescribeTensorrt:
    """Called with one of VERSIONS: the description of its API."""

    def describe_version(version: str) -> Api:
        if version != RTX:
            tensorrt_bindings(version)
        try:
            return describe(version)
        except BindingsUnavailable as error:
            pytest.skip(str(error))

    return describe_version


@pytest.fixture(params=VERSIONS)
def true_api(request: pytest.FixtureRequest, describe_tensorrt: DescribeTensorrt) -> Api:
    """Each of VERSIONS in turn."""
    return describe_tensorrt(str(request.param))
