"""Write the tables of README.md and docs/ again, from result files: make docs.

A block of a document is what stands between `<!-- name -->` and `<!-- end -->`; BLOCKS says what makes each. With
--check nothing is written, and the exit code is 1 when a document differs from its result files.
"""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "tests" / "peers" / "results"


def peers() -> str:
    """The side by side of `make peers`."""
    document = json.loads((RESULTS / "peers.json").read_text(encoding="utf-8"))
    settings, hardware = document["settings"], document["hardware"]
    versions: dict[str, str] = {}
    for run in document["runs"]:
        own = run["name"].startswith("densepack")
        versions |= {f"{name}{' (densepack)' if own else ''}": value for name, value in run["versions"].items()}
    told = ", ".join(f"{name} {versions[name]}" for name in sorted(versions))
    return (
        f"First {settings['questions']:,} questions of {document['squad']}, from the file to EM and F1, "
        f"{settings['threads']} threads, {hardware['cores']} cores of {hardware['processor']}; median of "
        f"{settings['rounds']} interleaved rounds (range); `{document['command']}`.\n\n"
        f"{_comparison().table(document)}\nVersions: {told}."
    )


BLOCKS: dict[str, Callable[[], str]] = {"peers": peers}


def regenerated(text: str) -> str:
    """The text with every known block written again."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name} -->\n).*?(<!-- end -->)", re.DOTALL)
        if pattern.search(text):
            made = make()
            text = pattern.sub(lambda found, made=made: f"{found[1]}{made}\n{found[2]}", text)
    return text


def documents() -> list[Path]:
    return [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))]


def main(arguments: list[str]) -> int:
    stale = []
    for path in documents():
        before = path.read_text(encoding="utf-8")
        after = regenerated(before)
        if after != before:
            stale.append(path.name)
            if "--check" not in arguments:
                path.write_text(after, encoding="utf-8")
    sys.stderr.write(f"{'stale' if '--check' in arguments else 'written'}: {', '.join(stale) or 'nothing'}\n")
    return 1 if stale and "--check" in arguments else 0


def _comparison() -> ModuleType:
    """tests/peers/compare.py, which is no package: it runs beside packages that densepack cannot."""
    folder = RESULTS.parent
    sys.path.insert(0, str(folder))
    try:
        specification = importlib.util.spec_from_file_location("compare", folder / "compare.py")
        assert specification is not None
        assert specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        sys.modules["compare"] = module
        specification.loader.exec_module(module)
    finally:
        sys.path.remove(str(folder))
    return module


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
