"""Another bundle takes over while the server goes on: opened beside the old one, proven, warmed, then exchanged.

    reload = Reload("current", options, [Exchange(service, options)], judge, metrics.reloaded)
    await reload()                                # {"name": …, "sha256": …}

The name is the one that the server was started with: a link that may lead elsewhere by now, an archive, a branch of the
hub that may have moved. Whatever fails until the exchange leaves the old bundle in its place. Every request is answered
wholly by the bundle that it was given to; the old one is closed when it has answered all that it took.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from densepack_runtime.backends import Choice
from densepack_runtime.bundle import Bundle
from densepack_runtime.bundle.places import locate_bundle
from densepack_runtime.errors import DensepackError, ReloadError, UnavailableError
from densepack_runtime.host.allocator import release_freed_memory
from densepack_runtime.host.console import one_line
from densepack_runtime.serving.application import Service
from densepack_runtime.serving.model import Model, chosen
from densepack_runtime.serving.options import ServerOptions
from densepack_runtime.sessions.options import SessionOptions

Judge = Callable[[Bundle, Choice, SessionOptions], None]
"""Raises what is wrong with a bundle's answers on this host; serving stands beside `parity`, which knows how."""
Outcome = Literal["swapped", "refused"]

_LOGGER = logging.getLogger("densepack")


class Target(Protocol):
    """What serves a model, here or in another process."""

    async def prepare(self, folder: Path) -> None:
        """Open and warm the bundle in a folder, beside the one that is served. Raises what is in its way."""
        ...

    async def swap(self) -> dict[str, Any] | None:
        """Serve what was prepared, and close what was served before. Returns what it is, where that is known yet."""
        ...

    async def drop(self) -> None:
        """Close what was prepared, if anything was."""
        ...


class Reload:
    """Opens the bundle called `name` anew for all `targets`, or for none of them; `ended` hears how that went.

    One at a time: who asks meanwhile gets the next one, of what is there then.
    """

    def __init__(
        self,
        name: str | Path,
        options: ServerOptions,
        targets: Sequence[Target],
        judge: Judge,
        ended: Callable[[Outcome], None],
    ) -> None:
        self._name, self._options, self._targets, self._judge, self._ended = name, options, targets, judge, ended
        self._turn = asyncio.Lock()

    async def __call__(self) -> dict[str, Any]:
        """Which bundle is served now. Raises ReloadError with the reason where it is still the old one."""
        async with self._turn:
            places = [Path(self._name).absolute()]
            try:
                places.append(folder := await asyncio.to_thread(self._folder))
                await self._prepare(folder)
            except Exception as error:
                self._ended("refused")
                raise _refused(error, reversed(places)) from error
            told = await asyncio.gather(*(target.swap() for target in self._targets))
            facts = next(filter(None, told), {})
            self._ended("swapped")
            _LOGGER.info("reloaded: %s is served from %s", facts.get("name", "the bundle"), folder)
            return facts

    def _folder(self) -> Path:
        return locate_bundle(self._name).resolve()

    async def _prepare(self, folder: Path) -> None:
        """Once where it can do no harm, then wherever it is to be served."""
        await asyncio.to_thread(self._prove, folder)
        done = await asyncio.gather(*(target.prepare(folder) for target in self._targets), return_exceptions=True)
        if failures := [one for one in done if isinstance(one, BaseException)]:
            await asyncio.gather(*(target.drop() for target in self._targets))
            raise failures[0]

    def _prove(self, folder: Path) -> None:
        bundle, choice = chosen(folder, self._options)
        self._judge(bundle, choice, self._options.session)


class Exchange:
    """The model of a service in this process, and the one that is to take its place."""

    def __init__(self, service: Service, options: ServerOptions) -> None:
        self._service, self._options = service, options
        self._next: Model | None = None

    async def prepare(self, folder: Path) -> None:
        await asyncio.to_thread(self._open, folder)

    async def swap(self) -> dict[str, Any]:
        assert self._next is not None
        old, self._service.model, self._next = self._service.model, self._next, None
        await asyncio.to_thread(_close_answered, old)
        facts = self._service.model.facts
        return {name: facts[name] for name in ("name", "sha256", "backend", "precision")}

    async def drop(self) -> None:
        unwanted, self._next = self._next, None
        if unwanted is not None:
            await asyncio.to_thread(unwanted.close)

    def _open(self, folder: Path) -> None:
        self._next = Model.open(folder, self._options, self._service.metrics, self._service.give_up)
        self._next.warm(lambda: not self._service.ending)
        if self._service.ending:
            raise UnavailableError("this server ends")


def _close_answered(model: Model) -> None:
    model.batcher.drain()
    model.close()
    release_freed_memory()  # a process that lives for months does not keep room for two models


def _refused(error: Exception, places: Iterable[Path]) -> ReloadError:
    """The reason for the log in full, for the client without the places of this host."""
    told = one_line(error) if isinstance(error, DensepackError) else f"{type(error).__name__}: {one_line(error)}"
    _LOGGER.error("not reloaded, the old bundle is served on: %s", told)
    for place in places:
        told = told.replace(str(place), "BUNDLE")
    return ReloadError(f"not reloaded, the old bundle is served on: {told}")
