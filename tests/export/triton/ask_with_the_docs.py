"""Asks a server what stdin holds, with the client of docs/triton.md; runs in the server's environment.

    ask_with_the_docs.py DOCUMENT http|grpc HOST:PORT CONNECTIONS < [[[question, context], …], …]

Prints for every request its answers, or the error as a text.
"""

from __future__ import annotations

import json
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import local
from typing import Any


def main(document: str, protocol: str, address: str, connections: str) -> None:
    [code] = re.findall(r"```python\n(.*?)```", Path(document).read_text(encoding="utf-8"), re.DOTALL)
    code = code.replace("tritonclient.http", f"tritonclient.{protocol}").replace("localhost:8000", address)
    docs: dict[str, Any] = {"print": lambda found: print(found, file=sys.stderr)}
    exec(code, docs)
    mine = local()

    def ask(pairs: list[list[str]]) -> list[Any] | str:
        if not hasattr(mine, "client"):  # that of HTTP belongs to one thread
            mine.client = docs["triton"].InferenceServerClient(address)
        try:
            return docs["ask"](mine.client, pairs)  # type: ignore[no-any-return]
        except docs["triton"].InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(int(connections)) as pool:
        json.dump(list(pool.map(ask, json.load(sys.stdin))), sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
