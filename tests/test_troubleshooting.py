"""docs/troubleshooting.md has every class of errors, and quotes only what the source says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from tests.test_architecture import ROOTS

PAGE = Path(__file__).resolve().parents[1] / "docs" / "troubleshooting.md"
ANY = "…"  # a value, in the page and here
LEAST_MESSAGES = 70


@cache
def nodes() -> list[ast.AST]:
    """Everything that the source of the packages consists of."""
    modules = (ast.parse(path.read_text(encoding="utf-8")) for root in ROOTS.values() for path in root.rglob("*.py"))
    return [node for module in modules for node in ast.walk(module)]


@cache
def raised_classes() -> frozenset[str]:
    """Names of all classes that descend from DensepackError or Warning."""
    bases = {
        node.name: {base.id for base in node.bases if isinstance(base, ast.Name)}
        for node in nodes()
        if isinstance(node, ast.ClassDef)
    }
    found = {"DensepackError", "UserWarning"}
    while more := {name for name, parents in bases.items() if parents & found} - found:
        found |= more
    return frozenset(found - {"UserWarning"})


@cache
def texts() -> frozenset[str]:
    """Every text of the source, with a mark where a value goes in."""
    return frozenset(told(node) for node in nodes() if isinstance(node, ast.Constant | ast.JoinedStr))


def told(node: ast.AST) -> str:
    if isinstance(node, ast.JoinedStr):
        return "".join(told(part) for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ANY


def quoted() -> list[str]:
    """The messages that the page explains."""
    found = re.findall(r"^- `([^`]+)`\s+—", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return [" ".join(message.split()) for message in found]


def is_said(message: str) -> bool:
    """Whether some text of the source has all of a message, value for value; it may go on behind that."""
    pattern = re.compile(".*".join(re.escape(part) for part in re.split(f"{ANY}+", message)))
    return any(pattern.match(text) for text in texts())


def test_every_class_has_an_entry() -> None:
    assert set(re.findall(r"^## (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)) == raised_classes()


def test_there_are_the_classes_of_all_packages() -> None:
    assert {"InputError", "EngineBuildError", "TrainingError", "FailedBundleWarning"} <= raised_classes()


def test_the_page_quotes_messages() -> None:
    assert len(quoted()) >= LEAST_MESSAGES


@pytest.mark.parametrize("message", quoted())
def test_every_quoted_message_is_in_the_source(message: str) -> None:
    assert is_said(message)


def test_a_message_that_is_not_in_the_source_is_found() -> None:
    assert is_said("unknown backend …; known: …")
    assert not is_said("unknown backend …; known are …")
