"""mypy's strict check of the builder and the session against the true stubs of both datacenter versions."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tensorrt_api.bindings import Bindings
from tests.tensorrt_api.description import DATACENTER_VERSIONS, REPOSITORY
from tests.tensorrt_api.fixtures import FindBindings
from tests.tensorrt_api.sources import builder_and_session

pytestmark = pytest.mark.slow
MYPY_SECONDS = 240
PLANTED = """

def planted(engine: trt_types.ICudaEngine, config: trt_types.IBuilderConfig) -> None:
    engine.get_tensor_naem(0)
    config.set_flag(trt_types.BuilderFlag.FP17)
    config.builder_optimization_level = "three"


if TYPE_CHECKING:
    import tensorrt as trt_types
"""


def check_types(bindings: Bindings, cache: Path, files: list[Path]) -> tuple[int, str]:
    """mypy's exit code and output; what the files import is followed for its types and not reported."""
    options = [
        "--config-file",
        str(REPOSITORY / "pyproject.toml"),
        "--follow-imports=silent",
        "--cache-dir",
        str(cache),
    ]
    command = [sys.executable, "-m", "mypy", *options, "--no-error-summary", *map(str, files)]
    done = subprocess.run(
        command,
        cwd=REPOSITORY,
        env=bindings.environment(),
        capture_output=True,
        text=True,
        timeout=MYPY_SECONDS,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("version", DATACENTER_VERSIONS)
def test_builder_and_session_pass_and_a_planted_copy_does_not(
    version: str, tensorrt_bindings: FindBindings, tmp_path: Path
) -> None:
    """One test, so that the second run finds the first one's cache."""
    bindings, cache = tensorrt_bindings(version), tmp_path / "cache"
    code, told = check_types(bindings, cache, builder_and_session())
    assert code == 0, told

    copy = tmp_path / "planted_engine.py"
    original = (REPOSITORY / "runtime/densepack_runtime/tensorrt_plans/engine.py").read_text(encoding="utf-8")
    copy.write_text(original + PLANTED, encoding="utf-8")
    code, told = check_types(bindings, cache, [copy])
    assert code == 1, told
    assert re.findall(r'"(\S+)" has no attribute "(\w+)"', told) == [
        ("ICudaEngine", "get_tensor_naem"),
        ("type[BuilderFlag]", "FP17"),
    ]
    assert 'expression has type "str"' in told
    assert told.count("error:") == 3, told
