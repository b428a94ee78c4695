"""Hub ids: which texts are some, what is fetched, and what every failure of the hub becomes. No network."""

from __future__ import annotations

import fnmatch
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors

from densepack_models.formats.checkpoint import load_checkpoint
from densepack_models.formats.hub import locate_checkpoint
from densepack_runtime.errors import CheckpointError
from tests.models.formats.planted_checkpoints import Planted
from tests.peers.old_repositories import repositories

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Stands in for snapshot_download: copies what matches from a folder, and remembers what it was asked for."""

    def __init__(self, repository: Path, cache: Path) -> None:
        self.repository = repository
        self.cache = cache / "snapshots" / COMMIT
        self.revisions: list[str | None] = []

    def __call__(self, hub_id: str, *, revision: str | None, allow_patterns: list[str]) -> str:
        self.revisions.append(revision)
        self.cache.mkdir(parents=True, exist_ok=True)
        for path in self.repository.iterdir():
            if any(fnmatch.fnmatch(path.name, pattern) for pattern in allow_patterns):
                shutil.copy(path, self.cache)
        return str(self.cache)

    def fetched(self) -> set[str]:
        return {path.name for path in self.cache.iterdir()}


def hub_with(planted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hub:
    hub = Hub(planted, tmp_path / "cache")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)  # it is there
    return hub


def test_only_the_needed_files_are_fetched_at_one_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Planted().write(tmp_path / "c", "safetensors", 2)
    for name in ("pytorch_model.bin", "tf_model.h5", "README.md", "training_args.bin"):
        (folder / name).touch()
    hub = hub_with(folder, tmp_path, monkeypatch)
    checkpoint = load_checkpoint("organisation/model", revision="main")
    assert checkpoint.source == f"organisation/model@{COMMIT}"
    assert hub.revisions == ["main", COMMIT]
    assert hub.fetched() == {
        "config.json",
        "special_tokens_map.json",
        "tokenizer_config.json",
        "vocab.txt",
        "model.safetensors.index.json",
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }


def test_every_form_of_a_tokenizer_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "c"
    folder.mkdir()
    forms = {name for _, _, files in repositories() for name in files}
    assert {"vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model"} <= forms
    for name in forms:
        (folder / name).touch()
    hub = hub_with(folder, tmp_path, monkeypatch)
    locate_checkpoint("organisation/model")
    assert hub.fetched() == forms


def test_pickles_are_fetched_where_there_is_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = hub_with(Planted().write(tmp_path / "c", "bin"), tmp_path, monkeypatch)
    load_checkpoint("model")
    assert "pytorch_model.bin" in hub.fetched()


def test_another_architecture_is_refused_before_its_weights_are_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planted = Planted()
    planted.config |= {"model_type": "roberta"}
    hub = hub_with(planted.write(tmp_path / "c"), tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="roberta"):
        load_checkpoint("organisation/model")
    assert "model.safetensors" not in hub.fetched()


def test_a_repository_without_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "c").mkdir()
    hub_with(tmp_path / "c", tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_checkpoint("organisation/model")


# --- texts that are not hub ids ---


@pytest.mark.parametrize("text", ["/nowhere", "./nowhere", "../a/b", "a/b/c", "a b", "a--b/c", "~/nowhere", "a/"])
def test_what_cannot_be_a_hub_id_never_reaches_the_network(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CheckpointError, match="there is no folder"):
        load_checkpoint(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [("", "name of the checkpoint is empty"), ("~nobody-here/x", "cannot be looked up"), ("a" * 5000, "looked up")],
)
def test_names_that_cannot_even_be_looked_up(text: str, message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(text)


def test_a_path_object_is_never_a_hub_id(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "snapshot_download", None)
    with pytest.raises(CheckpointError, match="there is no folder organisation/model"):
        load_checkpoint(Path("organisation/model"))


def test_a_file_is_not_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(CheckpointError, match="is a file: give the folder"):
        load_checkpoint(tmp_path / "model.safetensors")


def test_a_folder_has_no_revision(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="revision 'main' is for hub ids"):
        load_checkpoint(tmp_path, revision="main")


# --- failures ---


def response(status: int) -> Any:
    module = errors.HfHubHTTPError.__mro__[1].__module__.split(".")[0]  # the HTTP library of this hub client
    http = sys.modules[module]
    return http.Response(status, request=http.Request("GET", "https://huggingface.co"))


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        (lambda: errors.RepositoryNotFoundError("404", response=response(404)), "no such model on the hub"),
        (lambda: errors.GatedRepoError("403", response=response(403)), "is gated: accept its terms"),
        (lambda: errors.RevisionNotFoundError("404", response=response(404)), "has no revision 'v9'"),
        (lambda: errors.HfHubHTTPError("502", response=response(502)), "could not be fetched .*502"),
        (lambda: errors.LocalEntryNotFoundError("down"), "the hub cannot be reached"),
        (lambda: errors.EntryNotFoundError("gone"), "could not be fetched .*gone"),
        (lambda: OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_failures_of_the_hub_become_one_line(failure: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise failure()

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", lambda *_, **__: None)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: False)
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint("organisation/model", revision="v9")


def test_offline_without_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> str:
        raise errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    monkeypatch.setattr(huggingface_hub, "is_offline_mode", lambda: True)
    with pytest.raises(CheckpointError, match="while HF_HUB_OFFLINE is set: unset it"):
        load_checkpoint("organisation/model")


# --- the real client, and an environment that it stumbles over ---


def locate_through(environment: dict[str, str], tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """A hub id looked up by a fresh process; its hub is a port of this machine where nobody listens."""
    plain = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    here = {"HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_CACHE": str(tmp_path), "HF_HUB_DISABLE_TELEMETRY": "1"}
    code = (
        "from densepack_models.formats.hub import locate_checkpoint\n"
        "from densepack_runtime.host.console import run_command_line\n"
        "run_command_line(lambda: locate_checkpoint('organisation/model'))"
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={name: value for name, value in plain.items() if not name.startswith("HF_")} | here | environment,
        timeout=120,
        check=False,
    )


SOCKS = f"is a SOCKS proxy, for which a package is missing: pip install '{type(response(404)).__module__.split('.')[0]}"


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("HTTP_PROXY", "socks5://127.0.0.1:9", f"HTTP_PROXY {SOCKS}[socks]'"),
        ("all_proxy", "socks5h://user:secret@127.0.0.1:9", f"all_proxy {SOCKS}[socks]'"),
        (
            "HTTPS_PROXY",
            "foo://user:secret@127.0.0.1:9",
            "HTTPS_PROXY has the scheme 'foo', one of http, https, socks5,",
        ),
        ("HTTP_PROXY", "http://user:secret@127.0.0.1:port", "HTTP_PROXY has no host or no valid port"),
        ("http_proxy", "http://[::1", "http_proxy has no host or no valid port"),
        ("HTTP_PROXY", "http://127.0.0.1:99999", "HTTP_PROXY has no host or no valid port"),
        ("HF_ENDPOINT", "http://127.0.0.1:abc", "HF_ENDPOINT has no host or no valid port"),
        ("HF_ENDPOINT", "ftp://127.0.0.1", "HF_ENDPOINT has the scheme 'ftp', one of http, https is needed"),
        ("HF_TOKEN", "hf_secret\u00e9", "HF_TOKEN has characters that no token has: copy the token again"),
        ("HF_TOKEN", "hf_secret\nhf_more", "HF_TOKEN has characters that no token has: copy the token again"),
        ("SSL_CERT_FILE", "/nowhere", "SSL_CERT_FILE is /nowhere, where no file is"),
    ],
)
def test_what_the_environment_says_wrongly_is_one_line_that_names_it(
    tmp_path: Path, name: str, value: str, told: str
) -> None:
    done = locate_through({name: value}, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: the hub's model 'organisation/model' cannot be fetched: {told}")
    assert len(done.stderr.splitlines()) == 1
    assert "secret" not in done.stderr


def test_a_stored_token_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "token").write_bytes(b"hf_\xff")
    done = locate_through({"HF_TOKEN_PATH": str(tmp_path / "token")}, tmp_path)
    assert done.returncode == 1
    assert "the token that is stored has characters that no token has: log in again with `hf auth login`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_hub_that_cannot_be_reached(tmp_path: Path) -> None:
    done = locate_through({}, tmp_path)
    assert done.returncode == 1
    assert "the hub cannot be reached to look for it: check the network" in done.stderr


# --- the real client, offline, on a prepared cache ---


def prepared_cache(planted: Path, cache: Path) -> None:
    """The layout of the hub's cache: blobs, a snapshot of links, and the branch that points at its commit."""
    model = cache / "models--organisation--model"
    snapshot = model / "snapshots" / COMMIT
    for folder in (model / "blobs", model / "refs", snapshot):
        folder.mkdir(parents=True)
    (model / "refs" / "main").write_text(COMMIT)
    for number, path in enumerate(sorted(planted.iterdir())):
        blob = model / "blobs" / f"{number:040x}"
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))


def load_offline(hub_id: str, cache: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom densepack_models.formats.checkpoint import load_checkpoint\n"
        "try: print(load_checkpoint(sys.argv[1]).source)\nexcept Exception as error: sys.exit(repr(error))"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    return subprocess.run(
        [sys.executable, "-c", code, hub_id], capture_output=True, text=True, env=environment, timeout=120, check=False
    )


def test_offline_reads_the_hubs_own_cache(tmp_path: Path) -> None:
    prepared_cache(Planted().write(tmp_path / "c", "bin"), tmp_path / "cache")
    done = load_offline("organisation/model", tmp_path / "cache")
    assert done.stdout.strip() == f"organisation/model@{COMMIT}", done.stderr
    absent = load_offline("organisation/other", tmp_path / "cache")
    assert absent.returncode == 1
    assert "CheckpointError" in absent.stderr
    assert "HF_HUB_OFFLINE is set" in absent.stderr
