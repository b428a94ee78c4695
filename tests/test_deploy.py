"""The container files: what their linters say, and that what they ask of `densepack serve` is what it understands."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.server import GRACE_S
from tests.runtime.serving.load import served

DEPLOY = Path(__file__).resolve().parents[1] / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text(encoding="utf-8")
MANIFEST = (DEPLOY / "kubernetes.yaml").read_text(encoding="utf-8")
[POD] = [one["spec"]["template"]["spec"] for one in yaml.safe_load_all(MANIFEST) if one["kind"] == "Deployment"]
[CONTAINER] = POD["containers"]
LAST = Path(__file__).parent / "last_version" / "bundle"


@pytest.mark.parametrize(
    ("linter", "text", "line", "planted", "found"),
    [
        (["hadolint"], DOCKERFILE, "WORKDIR /source", "WORKDIR source", "DL3000"),
        (["kubernetes-validate", "--strict"], MANIFEST, "runAsNonRoot: true", "runAsNobody: true", "runAsNobody"),
    ],
    ids=["Dockerfile", "kubernetes.yaml"],
)
def test_linters(linter: list[str], text: str, line: str, planted: str, found: str, tmp_path: Path) -> None:
    """They find nothing, and would find this."""
    path = tmp_path / "file"
    path.write_text(text)
    assert _linted(linter, path) == ""
    path.write_text(text.replace(line, planted))
    assert found in _linted(linter, path)


def _linted(linter: list[str], path: Path) -> str:
    command = [f"{sysconfig.get_path('scripts')}/{linter[0]}", *linter[1:], str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout + done.stderr if done.returncode else ""


def test_nothing_but_the_cache_can_be_written() -> None:
    assert POD["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in CONTAINER["volumeMounts"] if not mount.get("readOnly")} == {
        "/cache",
        "/tmp",
    }
    assert "DENSEPACK_CACHE=/cache" in DOCKERFILE
    assert f"USER {POD['securityContext']['runAsUser']}" in DOCKERFILE


def test_a_pod_has_time_for_its_last_answers() -> None:
    warning = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] > warning + GRACE_S + ServerOptions().timeout_s + 1


def instructions(name: str) -> list[list[str]]:
    """What follows this word in the Dockerfile, where it is a list."""
    return [json.loads(found) for found in re.findall(rf"^ *{name} (\[.*\])$", DOCKERFILE, re.MULTILINE)]


CHECK, COMMAND = instructions("CMD")  # of HEALTHCHECK, and of the image


def test_the_image_and_the_pod_run_the_same() -> None:
    assert instructions("ENTRYPOINT") == [["densepack"]]
    assert COMMAND[:-1] == CONTAINER["args"][:-1]  # but the place of the tokens


def test_what_they_run_starts_and_answers_the_probes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they run it, but on this host alone: with no folder to write but the cache, and no token for a probe."""
    tokens, cache = tmp_path / "tokens", tmp_path / "cache"
    tokens.write_text("a token of at least 16 letters\n".replace(" ", "-"))
    monkeypatch.setenv("DENSEPACK_CACHE", str(cache))
    options: list[str] = CONTAINER["args"][2:-1]
    with served(LAST, *[option.replace("0.0.0.0", "127.0.0.1") for option in options], str(tokens)) as server:
        assert _checked("/v1/model", server.port) == 1  # it wants a token
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert _checked(CONTAINER[probe]["httpGet"]["path"], server.port) == 0
    assert any(cache.iterdir())


def _checked(path: str, port: int) -> int:
    """How the health check of the image ends, for a path and port of ours."""
    code = [part.replace("/readyz", path).replace("8000", str(port)) for part in CHECK[1:]]
    return subprocess.run([sys.executable, *code], timeout=30, check=False).returncode
