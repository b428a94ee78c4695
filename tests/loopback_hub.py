"""A hub of this machine: what the real client asks of the Hugging Face hub, answered from memory."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = dict[str, bytes]


class Hub:
    """Repositories: branches and commits by their names. `asked` remembers the requests, `allowed` who may write."""

    def __init__(self) -> None:
        self.branches: dict[str, dict[str, str]] = {}
        self.commits: dict[str, Files] = {}
        self.asked: list[str] = []
        self.allowed = True
        self.url = ""

    def commit(self, name: str, files: Files, branch: str = "main") -> str:
        """Make these the files of a branch."""
        oid = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[oid] = files
        self.branches.setdefault(name, {})[branch] = oid
        return oid

    def commit_folder(self, name: str, folder: Path, branch: str = "main") -> str:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        return self.commit(name, {**files, "README.md": b"# A card", ".gitattributes": b""}, branch)

    def files(self, name: str, branch: str = "main") -> Files:
        return self.commits[self.branches[name][branch]]

    def found(self, name: str, revision: str) -> str | None:
        return self.branches[name].get(revision) or (revision if revision in self.commits else None)


@contextmanager
def running(hub: Hub) -> Iterator[Hub]:
    """Serve it on a free port of loopback while the block runs."""

    class Handler(_Handler):
        served = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    hub.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    served: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self._get()

    def do_GET(self) -> None:
        self._get()

    def _get(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(path)
        found = re.fullmatch(r"(?:/api/models)?/([^/]+/[^/]+)(?:/(revision|tree|resolve)/([^/]+)(?:/(.+))?)?", path)
        if found is None or found[1] not in self.served.branches:
            return self._answer(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        name, what, revision, file = found[1], found[2], found[3] or "main", found[4]
        commit = self.served.found(name, revision)
        if commit is None:
            return self._answer(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        files = self.served.commits[commit]
        if what == "tree":
            return self._answer(200, [_told(path, content) for path, content in files.items()])
        if what != "resolve":
            return self._answer(200, {"id": name, "sha": commit, "siblings": [{"rfilename": path} for path in files]})
        if file not in files:
            return self._answer(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        return self._answer(200, files[file], {"ETag": f'"{_oid(files[file])}"', "X-Repo-Commit": commit})

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.served.asked.append(path)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.served.allowed:
            return self._answer(401, {"error": "Invalid username or password."})
        if path == "/api/validate-yaml":
            return self._answer(200, {"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = "/".join(filter(None, (asked.get("organization"), asked["name"])))
            there = name in self.served.branches
            if not there:
                self.served.commit(name, {".gitattributes": b""})
            return self._answer(409 if there else 200, {"url": f"{self.served.url}/{name}"})
        found = re.fullmatch(r"/api/models/([^/]+/[^/]+)/(branch|preupload|commit)/([^/]+)", path)
        assert found is not None, path
        name, what, branch = found.groups()
        if what == "branch":
            there = branch in self.served.branches[name]
            self.served.branches[name].setdefault(branch, self.served.branches[name]["main"])
            return self._answer(409 if there else 200, {})
        if what == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._answer(200, {"files": files})
        oid = self._commit(name, branch, [json.loads(line) for line in body.splitlines()])
        return self._answer(200, {"commitUrl": f"{self.served.url}/{name}/commit/{oid}", "commitOid": oid})

    def _commit(self, name: str, branch: str, lines: list[dict[str, Any]]) -> str:
        files = dict(self.served.files(name, branch))
        for line in lines:
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
        return self.served.commit(name, files, branch)

    def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


def _oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _told(path: str, content: bytes) -> dict[str, Any]:
    return {"type": "file", "path": path, "size": len(content), "oid": _oid(content)}
