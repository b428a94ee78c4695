"""What documents tell people to type: commands and options exist, extras and targets too, and code runs."""

from __future__ import annotations

import ast
import importlib.util
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer._click.exceptions import ClickException

from densepack_export.cli import command_names
from densepack_runtime.commands.options import app
from tests.conftest import REPOSITORY

DOCUMENTS = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "[!.]*/README.md", "tests/peers/README.md", "models/checkpoints/*/README.md")
    for path in REPOSITORY.glob(pattern)
    if path.name != "CHANGELOG.md"  # which tells of commands that were
)
# Programs of others that documents call; what they are given is theirs to judge.
FOREIGN = {
    *("apt-get", "bash", "curl", "docker", "kill", "kubectl", "ln", "mv", "openssl", "polygraphy", "pytest", "ruff"),
    *("tritonserver", "git"),
}
# Options in prose that are of other programs, and of scripts in tests/peers.
FOREIGN_OPTIONS = {"--backend-config", "--disable-auto-complete-config", "--exit-on-error", "--nn-pruning"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(densepack [^`]+)`")
PLACEHOLDER = re.compile(r"[…\[\]]")
SEPARATORS = ";|&\n<>"
PAIRS = [("Who built it?", "It was built by Anna Berg."), ("When?", "That was in 1901.")]


def blocks(kind: str) -> list[Any]:
    """The code blocks of a kind, each with the document that has it."""
    return [
        pytest.param(code, id=f"{path.relative_to(REPOSITORY)}-{number}")
        for path in DOCUMENTS
        for number, (found, code) in enumerate(BLOCK.findall(path.read_text(encoding="utf-8")))
        if found == kind
    ]


def commands_in(code: str) -> Iterator[list[str]]:
    """Words of each command of a shell block, without assignments before it and redirections behind."""
    code = re.sub(r"(^|\s)#( .*)?$", "", code.replace("\\\n", " "), flags=re.MULTILINE)
    lexer = shlex.shlex(code, posix=True, punctuation_chars=SEPARATORS)
    lexer.whitespace, lexer.whitespace_split, lexer.commenters = " \t", True, ""
    words: list[str] = []
    skipped = False
    for word in [*lexer, "\n"]:
        if not set(word) <= set(SEPARATORS):
            words += [] if skipped or (not words and re.match(r"\w+=", word)) else [word]
            skipped = False
        elif set(word) <= set("<>"):
            skipped = True
        elif words:
            yield words
            words = []


@cache
def root() -> Any:
    return typer.main.get_command(app)


def options_of(command: Any) -> set[str]:
    return {name for each in command.params for name in (*each.opts, *each.secondary_opts)} | {"--help", "-h"}


@cache
def extras() -> set[str]:
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return set(project["optional-dependencies"])


@cache
def targets(folder: Path) -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (REPOSITORY / folder / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))


def fault_of(words: list[str]) -> str | None:
    """What is wrong with a command, if anything is."""
    program, arguments = Path(words[0]).name, words[1:]
    if program == "densepack":
        return densepack_fault(arguments)
    if program == "pip":
        asked = {
            name for word in arguments for name in ",".join(re.findall(r"^(?:densepack|\.)\[(.*)\]", word)).split(",")
        }
        return f"extras {unknown}" if (unknown := asked - extras() - {""}) else None
    if program == "make":
        folder = Path(arguments[1]) if arguments[0] == "-C" else Path()
        unknown = {word for word in arguments if "=" not in word} - targets(folder) - {"-C", str(folder)}
        return f"targets {unknown}" if unknown else None
    if program.startswith("python"):
        return python_fault(arguments)
    return None if program in FOREIGN or program.startswith("{") else f"unknown program {program}"


def densepack_fault(arguments: list[str]) -> str | None:
    command = root().commands.get(arguments[0])
    if command is None:
        return f"unknown command {arguments[0]}"
    try:
        command.make_context(arguments[0], arguments[1:])
    except ClickException as error:
        return f"densepack {shlex.join(arguments)}: {error.format_message()}"
    return None


def python_fault(arguments: list[str]) -> str | None:
    if arguments[0] == "-m":
        return None if importlib.util.find_spec(arguments[1]) else f"no module {arguments[1]}"
    return None if (REPOSITORY / arguments[0]).is_file() else f"no file {arguments[0]}"


@pytest.mark.parametrize("code", blocks("sh"))
def test_shell_blocks_call_what_there_is(code: str) -> None:
    assert [fault for words in commands_in(code) if (fault := fault_of(words))] == []


@pytest.mark.parametrize("code", blocks("sh"))
def test_shell_blocks_are_shell(code: str) -> None:
    done = subprocess.run(["bash", "-n"], input=code, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("densepack bulid CHECKPOINT BUNDLE", "unknown command bulid"),
        ("densepack build CHECKPOINT BUNDLE --sqaud FILE", "--sqaud"),
        ("cd x && densepack prove  # where?", "unknown program cd"),
        ("X=1 densepack build --max-length two a b > out", "--max-length"),
        ("pip install 'densepack[cpu,sevre]'", "sevre"),
        ("make demmo", "demmo"),
        ("python -m densepack_export.checks.dmo", "dmo"),
    ],
)
def test_a_planted_fault_is_found(code: str, fault: str) -> None:
    found = [told for words in commands_in(code) if (told := fault_of(words))]
    assert fault in str(found[0])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_commands_in_prose_exist(path: Path) -> None:
    """With placeholders a command cannot be parsed, but its name and its options can be looked up."""
    for told in INLINE.findall(path.read_text(encoding="utf-8")):
        words = [word for word in PLACEHOLDER.sub(" ", " ".join(told.split())).split()[1:] if word.isascii()]
        name = next((word for word in words if not word.startswith("-")), "")
        command = root() if name.isupper() or not name else root().commands[name]
        unknown = {word.split("=")[0] for word in words if word.startswith("--")} - options_of(command)
        assert not unknown - options_of(root()), told


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_options_in_prose_are_of_some_command(path: Path) -> None:
    told = set(re.findall(r"`(--[a-z][a-z0-9-]+)", BLOCK.sub("", path.read_text(encoding="utf-8"))))
    known = set[str]().union(*map(options_of, root().commands.values())) | options_of(root())
    assert told - known - FOREIGN_OPTIONS == set()


def test_the_readme_has_every_command() -> None:
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `densepack ([\w-]+)", text, re.MULTILINE)) == {
        name for names in command_names().values() for name in names
    }


def test_the_readme_says_how_large_a_production_host_is() -> None:
    listed = (REPOSITORY / "docs" / "install.md").read_text(encoding="utf-8").split("<!-- production packages -->")[1]
    total = sum(float(size) for size in re.findall(r"^\| `[\w-]+` \| ([\d.]+) \|$", listed, re.MULTILINE))
    assert f"`cpu` installs {total:.0f} MB" in (REPOSITORY / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("code", blocks("python"))
def test_python_blocks_import_what_there_is(code: str) -> None:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith("densepack"):
            module = importlib.import_module(str(node.module))
            assert [name.name for name in node.names if not hasattr(module, name.name)] == []


@pytest.mark.parametrize(
    "code", [each for each in blocks("python") if 'QuestionAnswerer.open("bundle' in each.values[0]]
)
def test_python_blocks_answer(code: str, default_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As they stand, in a folder that has a bundle, with some `pairs` to answer."""
    monkeypatch.chdir(default_bundle.parent)
    exec(code, {"pairs": PAIRS})


@pytest.mark.parametrize("code", blocks("yaml"))
def test_yaml_blocks_are_yaml(code: str) -> None:
    assert isinstance(yaml.safe_load(code), dict)
