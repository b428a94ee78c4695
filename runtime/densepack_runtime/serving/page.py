"""The page at `/`: one file of the package, which may load nothing and ask nobody but its own server."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Self

_FILE = Path(__file__).with_name("page.html")


@dataclass(frozen=True, slots=True)
class Page:
    """The bytes of the page, and the headers that go with it."""

    body: bytes
    headers: dict[str, str]

    @classmethod
    def read(cls) -> Self:
        text = _FILE.read_text(encoding="utf-8")
        policy = (
            f"default-src 'none'; script-src {_hash_of('script', text)}; style-src {_hash_of('style', text)}; "
            "img-src data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
            "require-trusted-types-for 'script'"
        )
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "no-referrer",
            "X-Content-Type-Options": "nosniff",
            "Cache-Control": "no-cache",
        }
        return cls(text.encode(), headers)


def _hash_of(element: str, text: str) -> str:
    """What the policy allows: the page's one inline element of this name, as it is."""
    [content] = re.findall(rf"<{element}>(.*?)</{element}>", text, re.DOTALL)
    return f"'sha256-{b64encode(sha256(content.encode()).digest()).decode()}'"
