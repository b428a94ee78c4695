"""A bundle on the hub, through the real client and a hub of this machine."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub
import pytest
from huggingface_hub import constants

from densepack_runtime.bundle import MANIFEST_NAME, Bundle, edit_bundle
from densepack_runtime.bundle.publishing import CARD_MARK
from densepack_runtime.errors import BundleError, ReloadError
from densepack_runtime.question_answering.question_answerer import QuestionAnswerer
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Reload
from tests.command_line import CommandLine
from tests.conftest import REPOSITORY
from tests.loopback_hub import Hub, running

BUNDLE = REPOSITORY / "tests" / "last_version" / "bundle"
NAME = "owner/name"
ASKED = ("-q", "Who was Chopin?", "-c", "Frédéric Chopin was a Polish composer.", "--backend", "onnxruntime")


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """An empty hub, with empty caches."""
    for name in [name for name in os.environ if name.upper().endswith("_PROXY") or name.startswith("HF_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("DENSEPACK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with running(Hub()) as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        yield hub


def go_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def other_bundle(folder: Path) -> Path:
    """The same with another page, and so with another manifest."""
    shutil.copytree(BUNDLE, folder)
    with edit_bundle(Bundle.open(folder)) as draft:
        draft.path("report.html").unlink()
        draft.path("report.html").write_text("<p>another")
    return folder


# --- opening ---------------------------------------------------------------------------------------------------------


def test_answers_are_those_of_the_folder(hub: Hub, densepack: CommandLine) -> None:
    hub.commit_folder(NAME, BUNDLE)
    there, here = densepack("answer", NAME, *ASKED, "--json"), densepack("answer", BUNDLE, *ASKED, "--json")
    assert (there.code, there.out) == (0, here.out)
    with QuestionAnswerer.open(NAME, backend="onnxruntime") as answerer:
        assert answerer.answer(question=ASKED[1], context=ASKED[3]).text == json.loads(here.out)["answer"]


def test_only_the_files_of_the_manifest_are_fetched(hub: Hub) -> None:
    hub.commit_folder(NAME, BUNDLE)
    opened = Bundle.open(NAME)
    assert not [path for path in hub.asked if path.endswith("README.md")]
    assert {path.name for path in opened.folder.rglob("*") if path.is_file()} == {
        MANIFEST_NAME,
        *(Path(name).name for name in opened.manifest.files),
    }


def test_a_moved_branch_means_the_newest_and_a_revision_stays(hub: Hub, tmp_path: Path) -> None:
    first = hub.commit_folder(NAME, BUNDLE)
    hub.branches[NAME]["v1"] = first
    before = Bundle.open(NAME)
    hub.commit_folder(NAME, other_bundle(tmp_path / "other"))
    after = Bundle.open(NAME)
    assert after.path("report.html").read_text() == "<p>another"
    for revision in ("v1", first):
        assert Bundle.open(f"{NAME}@{revision}").folder == before.folder != after.folder


def test_offline_means_the_cache(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit_folder(NAME, BUNDLE)
    opened = Bundle.open(NAME)
    go_offline(monkeypatch)
    hub.asked.clear()
    assert Bundle.open(NAME) == opened
    assert hub.asked == []
    with pytest.raises(
        BundleError, match=r"no folder 'owner/other' at revision 'v1' here, and the hub's cache does not"
    ):
        Bundle.open("owner/other@v1")


def test_offline_with_the_manifest_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit_folder(NAME, BUNDLE)
    huggingface_hub.snapshot_download(NAME, allow_patterns=[MANIFEST_NAME])
    go_offline(monkeypatch)
    with pytest.raises(
        BundleError, match=r"cache does not hold it \(or not whole\) while HF_HUB_OFFLINE is set: unset"
    ):
        Bundle.open(NAME)


def test_a_hub_that_is_away_is_an_error_although_the_cache_has_it(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit_folder(NAME, BUNDLE)
    Bundle.open(NAME)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(
        BundleError, match="the hub cannot be reached .* set HF_HUB_OFFLINE=1 to take what the hub's cache"
    ):
        Bundle.open(NAME)


def test_a_folder_of_that_name_wins(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(BUNDLE, NAME)
    assert Bundle.open(NAME).folder == Path(NAME)
    assert hub.asked == []


@pytest.mark.parametrize(
    "name", ["name", "owner/name/more", "/owner/name", "owner/name@", "owner/name@../x", "a--b/c", ""]
)
def test_what_cannot_be_a_repository_never_reaches_the_network(hub: Hub, name: str) -> None:
    with pytest.raises(BundleError, match="is not a bundle: it has no bundle.json"):
        Bundle.open(name)
    with pytest.raises(BundleError, match="is not a bundle"):
        Bundle.open(Path(NAME))
    assert hub.asked == []


def test_what_is_not_there_is_named(hub: Hub) -> None:
    with pytest.raises(BundleError, match=r"no folder 'owner/name' here and no such model on the hub .*hf auth login"):
        Bundle.open(NAME)
    hub.commit(NAME, {"config.json": b"{}"})
    with pytest.raises(BundleError, match="'owner/name' has no revision 'v9': check the branch, tag or commit"):
        Bundle.open(f"{NAME}@v9")
    with pytest.raises(
        BundleError, match="'owner/name' is no bundle: it has no bundle.json. Make one .* densepack build"
    ):
        Bundle.open(NAME)


def test_a_damaged_file_and_a_missing_one_are_told_and_not_kept(hub: Hub, tmp_path: Path) -> None:
    hub.commit_folder(NAME, BUNDLE)
    files = hub.files(NAME)
    damaged = {**files, "model.onnx": files["model.onnx"][:-1] + b"?"}
    del damaged["reference.npz"]
    hub.commit(NAME, damaged)
    with pytest.raises(
        BundleError, match=r"'owner/name' at .* reference.npz is missing; model.onnx is damaged \(sha256"
    ):
        Bundle.open(NAME)
    assert list((tmp_path / "cache" / "bundles").iterdir()) == []


def test_a_copy_that_was_damaged_in_the_cache(hub: Hub) -> None:
    hub.commit_folder(NAME, BUNDLE)
    path = Bundle.open(NAME).path("model.onnx")
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(content[:-1] + b"?")
    with pytest.raises(BundleError, match=f"model.onnx is damaged .*Remove {path.parent}, and it is had anew"):
        Bundle.open(NAME)
    shutil.rmtree(path.parent)
    assert Bundle.open(NAME).path("model.onnx").read_bytes() == content


def test_no_token_in_messages(hub: Hub, densepack: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit(NAME, {})
    monkeypatch.setattr(constants, "ENDPOINT", hub.url.replace("//", "//user:hf_secret@") + "/nowhere")
    outcome = densepack("answer", NAME, *ASKED)
    assert outcome.code == 1
    assert len(outcome.error_lines) == 1
    assert "secret" not in outcome.err


# --- a copy is not changed, a folder of one's own may be --------------------------------------------------------------


def test_a_copy_of_the_cache_is_not_changed(hub: Hub, densepack: CommandLine) -> None:
    hub.commit_folder(NAME, BUNDLE)
    told = "is a copy of a bundle that is elsewhere, and is not changed: make one of your own with densepack download"
    for command in (["parity", NAME, "--write"], ["build-engine", NAME], ["report", NAME, "--overwrite"]):
        outcome = densepack(*command)
        assert outcome.code == 1
        assert told in outcome.error_lines[0]


def test_a_downloaded_bundle_may_be_changed(hub: Hub, densepack: CommandLine, tmp_path: Path) -> None:
    hub.commit_folder(NAME, BUNDLE)
    outcome = densepack("download", NAME, tmp_path / "own", "--json")
    assert json.loads(outcome.out)["sha256"] == Bundle.open(BUNDLE).sha256
    assert outcome.next_step == f"densepack prove {tmp_path / 'own'}"
    with edit_bundle(Bundle.open(tmp_path / "own")) as draft:
        draft.path("report.html").write_text("<p>mine")
    assert Bundle.open(NAME).path("report.html").read_bytes() == (BUNDLE / "report.html").read_bytes()
    refused = densepack("download", NAME, tmp_path / "own")
    assert refused.error_lines == [
        f"error: {tmp_path / 'own'} exists already: choose another name, remove it, or pass --overwrite"
    ]
    assert densepack("download", NAME, tmp_path / "own", "--overwrite").code == 0
    assert Bundle.open(tmp_path / "own").manifest == Bundle.open(BUNDLE).manifest


def test_a_server_looks_again_where_its_branch_is(hub: Hub, tmp_path: Path) -> None:
    """A reload of what was started by the name of a repository; what is served is stood in for."""

    class Target:
        folders: ClassVar[list[Path]] = []

        async def prepare(self, folder: Path) -> None:
            self.folders.append(folder)

        async def swap(self) -> dict[str, Any]:
            return {"name": "it"}

        async def drop(self) -> None: ...

    hub.commit_folder(NAME, BUNDLE)
    before = Bundle.open(NAME).folder
    outcomes: list[str] = []
    options = ServerOptions(backend="onnxruntime")
    reload = Reload(NAME, options, [Target()], lambda *_: None, outcomes.append)
    hub.commit_folder(NAME, other_bundle(tmp_path / "other"))
    asyncio.run(reload())
    assert Target.folders == [Bundle.open(NAME).folder] != [before]
    hub.commit(NAME, {})
    with pytest.raises(ReloadError, match="not reloaded, the old bundle is served on: the hub's model .* is no bundle"):
        asyncio.run(reload())
    assert outcomes == ["swapped", "refused"]


# --- push ------------------------------------------------------------------------------------------------------------


def test_what_is_pushed_is_opened(hub: Hub, densepack: CommandLine) -> None:
    outcome = densepack("push", BUNDLE, NAME, "--license", "apache-2.0", "--json")
    assert outcome.code == 0, outcome.err
    told = json.loads(outcome.out)
    assert told["commit"] == hub.branches[NAME]["main"]
    assert outcome.next_step == f"densepack prove {NAME}"
    opened = Bundle.open(f"{NAME}@{told['commit']}")
    assert opened.manifest == Bundle.open(BUNDLE).manifest
    card = hub.files(NAME)["README.md"].decode()
    for part in ("license: apache-2.0", "library_name: densepack", CARD_MARK, f'QuestionAnswerer.open("{NAME}")'):
        assert part in card
    assert opened.manifest.parity.summary in card


def test_a_push_replaces_the_bundle_and_nothing_else(hub: Hub, densepack: CommandLine, tmp_path: Path) -> None:
    """A plan that the new one has not goes; a licence and a card that somebody wrote stay."""
    other = other_bundle(tmp_path / "other")
    with edit_bundle(Bundle.open(other)) as draft:
        draft.path("timing.cache").write_bytes(b"1")
    assert densepack("push", other, NAME).code == 0
    before = hub.files(NAME)
    hub.commit(NAME, {**before, "LICENSE": b"terms"})
    assert densepack("push", BUNDLE, NAME).code == 0
    assert hub.files(NAME).keys() == {*before, "LICENSE"} - {"timing.cache"}
    assert hub.files(NAME)["README.md"] != before["README.md"]
    hub.commit(NAME, {**hub.files(NAME), "README.md": b"# Mine"})
    assert densepack("push", other, NAME).code == 0
    assert hub.files(NAME)["README.md"] == b"# Mine"
    (tmp_path / "card.md").write_text("# Newer")
    assert densepack("push", other, NAME, "--card", tmp_path / "card.md").code == 0
    assert hub.files(NAME)["README.md"] == b"# Newer"


def test_a_push_to_a_branch_leaves_the_others(hub: Hub, densepack: CommandLine) -> None:
    before = hub.commit(NAME, {"config.json": b"{}"})
    assert densepack("push", BUNDLE, f"{NAME}@v1").code == 0
    assert hub.branches[NAME]["main"] == before
    assert Bundle.open(f"{NAME}@v1").manifest == Bundle.open(BUNDLE).manifest


def test_a_push_that_may_not_be(hub: Hub, densepack: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.allowed = False
    told = "error: the hub does not let you write 'owner/name': log in with `hf auth login`"
    assert densepack("push", BUNDLE, NAME).error_lines[0].startswith(told)
    assert "names no repository of the hub" in densepack("push", BUNDLE, "name").error_lines[0]
    go_offline(monkeypatch)
    assert "cannot be written while HF_HUB_OFFLINE is set" in densepack("push", BUNDLE, NAME).error_lines[0]
