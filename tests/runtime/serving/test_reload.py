"""Another bundle takes over: each request is answered wholly by one of them, and what fails changes nothing."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from densepack_runtime.bundle import Bundle
from densepack_runtime.errors import BackendError, ReloadError
from densepack_runtime.question_answering.windows import Windower
from densepack_runtime.serving.bearer import Bearers
from densepack_runtime.serving.model import Model
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.serving.reload import Exchange, Reload
from densepack_runtime.sessions.fake_session import FakeSession, made_up_logits
from densepack_runtime.sessions.session import Batch, Logits
from tests.runtime.serving.bundles import another, damaged
from tests.runtime.serving.running import WAIT_S, Got, Held, Running, model_of

LAST = Path(__file__).parents[2] / "last_version" / "bundle"
OPTIONS = ServerOptions(backend="onnxruntime", precision="fp32")
TOKEN = "r" * 32
MAY = {"Authorization": f"Bearer {TOKEN}"}
ASKED = {"question": "Who built the bridge?", "context": "The bridge was built by Anna Berg in 1901, the mill by none."}
Serve = Callable[..., Running]


def allow_reload(one: Running, path: Path, tokens: Path) -> None:
    """Have a server reload what is at `path`, for who has TOKEN."""
    tokens.write_text(TOKEN)
    service = one.service
    service.reload = Reload(path, OPTIONS, [Exchange(service, OPTIONS)], judged, service.metrics.reloaded)
    service.reload_bearers = Bearers.read(tokens)


def judged(*_: object) -> None:
    """Nothing is wrong."""


class Recorded:
    """A target that notes what it is asked to do."""

    def __init__(self, error: Exception | None = None) -> None:
        self.done: list[str] = []
        self._error = error

    async def prepare(self, folder: Path) -> None:
        self.done.append(f"prepare {folder.name}")
        await asyncio.sleep(0)
        if self._error:
            raise self._error

    async def swap(self) -> dict[str, Any]:
        self.done.append("swap")
        return {"name": "new", "sha256": "ab", "backend": "fake", "precision": "fp32"}

    async def drop(self) -> None:
        self.done.append("drop")


def test_all_targets_swap_once_all_are_prepared(tmp_path: Path) -> None:
    (tmp_path / "current").symlink_to(LAST)
    targets, ended = [Recorded(), Recorded()], list[str]()
    reload = Reload(tmp_path / "current", OPTIONS, targets, judged, ended.append)
    assert asyncio.run(reload()) == {"name": "new", "sha256": "ab", "backend": "fake", "precision": "fp32"}
    assert [one.done for one in targets] == [["prepare bundle", "swap"]] * 2
    assert ended == ["swapped"]


def test_one_target_that_fails_leaves_all_of_them_as_they_were(caplog: pytest.LogCaptureFixture) -> None:
    targets, ended = [Recorded(), Recorded(RuntimeError(f"no memory for {LAST}/x"))], list[str]()
    reload = Reload(LAST, OPTIONS, targets, judged, ended.append)
    with pytest.raises(ReloadError, match="is served on: RuntimeError: no memory for BUNDLE/x"):
        asyncio.run(reload())
    assert [one.done for one in targets] == [["prepare bundle", "drop"]] * 2
    assert ended == ["refused"]
    assert f"no memory for {LAST}/x" in caplog.text


@pytest.mark.parametrize("damage", [True, False])
def test_what_is_damaged_or_judged_wrong_is_opened_by_no_target(tmp_path: Path, damage: bool) -> None:
    def judge(bundle: Bundle, *_: object) -> None:
        raise BackendError(f"{bundle.manifest.model.name} is wrong")

    target = Recorded()
    folder = damaged(LAST, tmp_path / "bundle") if damage else LAST
    reload = Reload(folder, OPTIONS, [target], judge, lambda _: None)
    with pytest.raises(ReloadError, match="the bundle BUNDLE is not as it was built" if damage else "is wrong"):
        asyncio.run(reload())
    assert target.done == []


def test_reloads_wait_for_each_other() -> None:
    target = Recorded()
    reload = Reload(LAST, OPTIONS, [target], judged, lambda _: None)

    async def twice() -> None:
        await asyncio.gather(reload(), reload())

    asyncio.run(twice())
    assert target.done == ["prepare bundle", "swap"] * 2


def test_a_real_bundle_takes_over_from_another(tmp_path: Path, serve: Serve) -> None:
    """The model is opened, warmed and told of, and the old one is closed."""
    one = serve()
    old = one.service.model.answerer.session
    assert isinstance(old, FakeSession)
    allow_reload(one, another(LAST, tmp_path / "next", "the next"), tmp_path / "tokens")
    told = one("POST", "/v1/reload", headers=MAY)
    assert (told.status, told.json["name"], told.json["backend"]) == (200, "the next", "onnxruntime")
    assert one("GET", "/v1/model").json["sha256"] == told.json["sha256"]
    assert old.closed
    assert one("POST", "/models/the next".replace(" ", "%20"), {"inputs": ASKED}).status == 200
    assert one("POST", "/models/fake", {"inputs": ASKED}).status == 404


def other_logits(batch: Batch) -> Logits:
    found = made_up_logits(batch)
    return Logits(found.end, found.start)


def test_what_the_old_model_took_it_answers_and_what_comes_later_the_new_one(
    serve: Serve, held: Held, windower: Windower, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = serve(held.session)
    new = model_of(FakeSession(other_logits), windower, one.service.metrics, name="new")
    monkeypatch.setattr(Model, "open", lambda *_: new)
    allow_reload(one, LAST, tmp_path / "tokens")
    got: list[Got] = []
    asking = beside(got, partial(one, "POST", "/v1/answer", [ASKED] * 20))
    one.wait(lambda service: service.model.batcher.questions == 20)
    reloading = beside(got, partial(one, "POST", "/v1/reload", headers=MAY))
    one.wait(lambda service: service.model is new)
    by_new = one("POST", "/v1/answer", ASKED).json
    assert one("GET", "/readyz").status == 200
    assert (got, held.session.closed) == ([], False)  # the old one has not answered yet, and the reload waits for that
    held.go.set()
    for thread in (asking, reloading):
        thread.join(WAIT_S)
    assert [one.status for one in got] == [200, 200]
    by_old, *rest = got[0].json
    assert rest == [by_old] * 19
    assert by_old != by_new
    assert held.session.closed
    assert metric(one, 'densepack_reloads_total{outcome="swapped"}') == 1
    assert metric(one, "densepack_queue_questions") == metric(one, "densepack_queue_tokens") == 0


def beside(got: list[Got], ask: Callable[[], Got]) -> threading.Thread:
    thread = threading.Thread(target=lambda: got.append(ask()))
    thread.start()
    return thread


def metric(one: Running, name: str) -> float:
    lines = one("GET", "/metrics").body.decode().splitlines()
    return float(dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))[name])


def test_a_reload_that_fails_is_409_with_the_reason(serve: Serve, tmp_path: Path) -> None:
    one = serve()
    allow_reload(one, damaged(LAST, tmp_path / "bundle"), tmp_path / "tokens")
    got = one("POST", "/v1/reload", headers=MAY)
    assert got.status == 409
    assert got.json["error"].startswith("not reloaded, the old bundle is served on: the bundle BUNDLE is not as it was")
    assert str(tmp_path) not in got.json["error"]
    assert one("GET", "/v1/model").json["name"] == "fake"
    assert metric(one, 'densepack_reloads_total{outcome="refused"}') == 1


def test_only_who_has_a_token_of_its_own_reloads(serve: Serve, tmp_path: Path) -> None:
    askers = tmp_path / "askers"
    askers.write_text("a" * 32)
    one = serve(bearers=Bearers.read(askers))
    asker = {"Authorization": f"Bearer {'a' * 32}"}
    assert "--reload-token-file" in one("POST", "/v1/reload", headers=asker).json["error"]
    allow_reload(one, LAST, tmp_path / "tokens")
    assert one("POST", "/v1/reload", headers=asker).status == one("POST", "/v1/reload").status == 401
    assert one("POST", "/v1/answer", ASKED, MAY).status == 401
    refused = one("POST", "/v1/reload", {"bundle": "/elsewhere"}, MAY)
    assert (refused.status, one("GET", "/v1/model", headers=asker).json["name"]) == (422, "fake")
    assert "takes no body" in refused.json["error"]


def test_the_signal_reloads_once_the_server_is_ready(
    serve: Serve, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "densepack")
    one = serve()
    allow_reload(one, LAST, tmp_path / "tokens")
    one.service.reload_asked.set()
    one.wait(lambda service: service.model.name != "fake" and not service.reload_asked.is_set())
    one.wait(lambda _: "reloaded: " in caplog.text)
