"""OpenVINO at every instruction set that this machine has: right in each precision that it offers there."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from densepack_runtime.host.machine import processor_features

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
SECONDS = 120  # nothing here is near it
# What oneDNN calls a set, and a flag that Linux lists where a processor has it, from the smallest on.
INSTRUCTION_SETS = {
    "AVX": "avx",
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_BF16": "avx512_bf16",
    "AVX512_CORE_FP16": "avx512_fp16",
    "AVX512_CORE_AMX": "amx_int8",
}
FLAGS = processor_features().partition(": ")[2].split()
JUDGE = """
import json, sys
from pathlib import Path
from densepack_runtime.backends import choose_backend
from densepack_runtime.bundle import Bundle
from densepack_runtime.parity.proving import Trial
from densepack_runtime.sessions.openvino_session import openvino_precisions
bundle = Bundle.open(Path(sys.argv[1]))
judged = {}
for precision in openvino_precisions():
    choice = choose_backend(bundle, "openvino", precision)
    reports = Trial(bundle.folder, choice, 1, "densepack_runtime.backends").judge()
    judged[precision] = [failure for report in reports for failure in report.failures]
print(json.dumps(judged))
"""


def _judged_at(name: str, folder: Path) -> subprocess.CompletedProcess[str]:
    bundle = shutil.copytree(LAST, folder / "bundle")
    return subprocess.run(
        [sys.executable, "-c", JUDGE, bundle],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": name},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )


@pytest.mark.parametrize("name", INSTRUCTION_SETS)
def test_recorded_windows_and_corners_are_right(name: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    if INSTRUCTION_SETS[name] not in FLAGS:
        pytest.skip(f"this processor has no {INSTRUCTION_SETS[name]}")
    done = _judged_at(name, tmp_path)
    assert done.returncode == 0, done.stderr
    judged = json.loads(done.stdout)
    assert "fp32" in judged
    assert ("bf16" in judged) <= name.startswith("AVX512")
    assert not any(judged.values()), judged


@pytest.mark.skipif("sse4_1" not in FLAGS, reason="this processor has no sse4_1")
def test_a_set_on_which_nothing_is_computed_is_an_error(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    done = _judged_at("SSE41", tmp_path)
    assert done.returncode == 1
    assert "BackendError: OpenVINO gave logits of shape (0, 0)" in done.stderr
