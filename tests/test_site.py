"""The site of the documents: its generated pages tell what the code says, and links of the repository hold in both."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import yaml
from jsonschema import Draft202012Validator

import densepack_models
import densepack_runtime
from densepack_export.cli import command_names
from tests.conftest import REPOSITORY
from tests.test_written_commands import BLOCK, DOCUMENTS, root

LINK = re.compile(r"\[[^\]]*\]\(((?!\w+:)[^)\s#]*)(?:#([^)\s]+))?\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    return site_module("reference")


@pytest.fixture(scope="module")
def hooks() -> ModuleType:
    pytest.importorskip("mkdocs", reason="the site needs the extra `site`")
    return site_module("hooks")


def site_module(name: str) -> ModuleType:
    """A module of docs/site, which finds the others beside it as it does under mkdocs."""
    folder = str(REPOSITORY / "docs" / "site")
    sys.path.insert(0, folder)
    try:
        return import_module(name)
    finally:
        sys.path.remove(folder)


@pytest.fixture(scope="module")
def pages(reference: ModuleType) -> dict[str, str]:
    return reference.pages()  # type: ignore[no-any-return]


def anchors(path: Path) -> set[str]:
    """Of the headings of a document, as GitHub makes them."""
    headings = HEADING.findall(BLOCK.sub("", path.read_text(encoding="utf-8")))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_links_hold_in_the_repository(path: Path) -> None:
    for target, anchor in LINK.findall(BLOCK.sub("", path.read_text(encoding="utf-8"))):
        there = path.parent / target if target else path
        assert there.exists(), target
        assert not anchor or anchor in anchors(there), f"{target}#{anchor}"


def test_every_command_has_a_page_with_its_options(pages: dict[str, str]) -> None:
    for name in (name for names in command_names().values() for name in names):
        command, page = root().commands[name], pages[f"reference/commands/{name}.md"]
        shown = {option for each in command.params if not getattr(each, "hidden", False) for option in each.opts}
        assert {option for option in shown if option.startswith("-") and option not in page} == set()
        assert command.help.split("\n")[0] in page


def test_defaults_and_bounds_have_a_cell_of_their_own(pages: dict[str, str]) -> None:
    page = pages["reference/commands/build.md"]
    assert "| `--max-length <int range>` | Tokens in a window at most. | `384; x>=16` |" in page
    assert "| `--flavour <auto|tensorrt|tensorrt-rtx>` |" in page
    assert "```sh\ndensepack build models/checkpoints/default bundle --squad dev-v1.1.json\n```" in page


@pytest.mark.parametrize(("name", "file"), [("bundle", "bundle.json"), ("parity", "parity.json")])
def test_schemas_hold_for_what_is_written(pages: dict[str, str], default_bundle: Path, name: str, file: str) -> None:
    schema = json.loads(pages[f"reference/formats/{name}.schema.json"])
    document = json.loads((default_bundle / file).read_text(encoding="utf-8"))
    validator = Draft202012Validator(schema)
    assert list(validator.iter_errors(document)) == []
    del document[schema["$defs"][schema["$ref"].rsplit("/", 1)[1]]["required"][0]]
    assert len(list(validator.iter_errors(document))) == 1


def test_the_layout_of_a_benchmark_is_that_of_its_results(pages: dict[str, str]) -> None:
    page = pages["reference/formats/benchmark.md"]
    for row in (
        "| `ratios[].flop_limit` | number |",
        "| `squad.sides[].f1` | number |",
        "| `growth[].axis` | string |",
    ):
        assert row in page


def test_every_endpoint_and_public_name_has_a_place(pages: dict[str, str]) -> None:
    assert "| `POST /v1/answer` |" in pages["reference/formats/server.md"]
    for face in (densepack_runtime, densepack_models):
        page = pages[f"reference/api/{face.__name__.removeprefix('densepack_')}.md"]
        assert [name for name in face.__all__ if f"::: {face.__name__}.{name}\n" not in page] == []


def test_all_generated_pages_can_be_reached(reference: ModuleType, pages: dict[str, str]) -> None:
    reached = set(re.findall(r"reference/[\w/-]+\.md", str(reference.navigation())))
    assert reached == {place for place in pages if place.endswith(".md")}


@pytest.mark.parametrize(
    ("written", "source", "place", "led"),
    [
        ("[a](docs/serving.md#limits)", "README.md", "index.md", "[a](serving.md#limits)"),
        ("![a](docs/against.svg)", "README.md", "index.md", "![a](against.svg)"),
        ("[a](README.md)", "docs/README.md", "guides.md", "[a](guides.md)"),
        ("[a](../README.md)", "docs/README.md", "guides.md", "[a](index.md)"),
        ("[a](../docs/serving.md)", "tests/README.md", "reference/a.md", "[a](../serving.md)"),
        ("[`run`](../.ci/run)", "docs/serving.md", "serving.md", "`run`"),
        ("[a](../deploy/Dockerfile)", "docs/serving.md", "serving.md", "a (`deploy/Dockerfile`)"),
        ("[a](gone.md)", "docs/serving.md", "serving.md", "[a](gone.md)"),
        ("[a](https://example.org/b.md)", "README.md", "index.md", "[a](https://example.org/b.md)"),
        ("[a](#limits)", "README.md", "index.md", "[a](#limits)"),
    ],
)
def test_links_are_led_to_where_the_site_has_it(
    hooks: ModuleType, written: str, source: str, place: str, led: str
) -> None:
    known = {"index.md", "guides.md", "serving.md", "against.svg"}
    assert hooks.linked(written, source, place, known) == led


def test_a_dead_link_fails_the_site(hooks: ModuleType, tmp_path: Path) -> None:
    """With the arguments of `make site` and what mkdocs.yml says of links, on two pages with three faults."""
    [told] = re.findall(r"mkdocs (build .*)", (REPOSITORY / "Makefile").read_text(encoding="utf-8"))
    ours = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    small = {"site_name": "small", "theme": "mkdocs", "validation": ours["validation"], "nav": ["index.md"]}
    (tmp_path / "mkdocs.yml").write_text(yaml.safe_dump(small), encoding="utf-8")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text("# A\n[a](gone.md) [b](left.md#nowhere)", encoding="utf-8")
    (tmp_path / "docs" / "left.md").write_text("# B", encoding="utf-8")
    command = [sys.executable, "-m", "mkdocs", *told.split()]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "Aborted with 3 warnings" in done.stdout


@pytest.mark.parametrize(
    ("html", "refused"),
    [
        ('<script src="https://cdn.example.org/a.js"></script>', True),
        ('<link rel="stylesheet" href="//fonts.example.org/a.css">', True),
        ('<img alt="a" src="http://example.org/a.png">', True),
        ('<a href="https://example.org">elsewhere</a><script src="assets/a.js"></script>', False),
    ],
)
def test_a_page_that_would_fetch_from_the_network_is_refused(hooks: ModuleType, html: str, refused: bool) -> None:
    page = SimpleNamespace(file=SimpleNamespace(src_uri="a.md"))
    if not refused:
        assert hooks.on_post_page(html, page=page) == html
        return
    with pytest.raises(Exception, match="would fetch something from the network"):
        hooks.on_post_page(html, page=page)
