"""Pages that are made of the code itself: every command, the public names, what is written into files.

They are no files of the repository, so that none can be stale; docs/site/hooks.py puts them into the site.
"""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer

from densepack_export.card.text import table
from densepack_export.cli import command_names
from densepack_runtime.bundle import Manifest
from densepack_runtime.commands.options import app
from densepack_runtime.parity.report import ParityReport
from densepack_runtime.serving.openapi import openapi
from densepack_runtime.sessions.host_record import HostRecord
from densepack_runtime.structure import Structure

RESULTS = Path(__file__).resolve().parents[2] / "tests" / "peers" / "results"
# What a help text has in brackets: its default, its bounds, whether it is required.
_BRACKETS = re.compile(r"\s*\[((?:default: |required|\S*[<>]).*?)\]")

# What is written into files: the page, the file, what it is, and the record that reads and writes it.
FORMATS: tuple[tuple[str, str, str, type], ...] = (
    ("bundle", "bundle.json", "The manifest of a bundle.", Manifest),
    ("parity", "parity.json", "What the ladder showed: in a bundle, and from `densepack parity --json`.", ParityReport),
    ("host", "proof-….json", "What `densepack prove` found on a host, kept in its cache.", HostRecord),
    ("structure", "structure.json", "What is left of a packed model, beside its weights.", Structure),
)
# Documents without a record: their layout is that of results in the repository, field by field.
BENCHMARKS = ("bench_default", "bench_squad", "growth")
# Public names: the page, what it is for, and the module with them; of a module without `__all__`, which ones.
FACES: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("runtime", "A bundle in, answers out. Needs no PyTorch.", "densepack_runtime", ()),
    ("models", "Checkpoints, packing and the packed module. Needs PyTorch.", "densepack_models", ()),
    (
        "export",
        "From a checkpoint to a bundle; what else this package does is reached by its commands.",
        "densepack_export.build",
        ("build_bundle", "BuildOptions", "BuildResult"),
    ),
)


def pages() -> dict[str, str]:
    """Text of every page, by its place in the site; JSON documents beside them."""
    made = {_command_page(name): _told_command(command, context) for name, command, context in _commands()}
    for name, file, told, kind in FORMATS:
        made |= _format_pages(name, file, told, msgspec.json.schema(kind))
    made["reference/formats/benchmark.md"] = _benchmark_page()
    made |= _server_pages()
    made |= {f"reference/api/{name}.md": _face_page(*face) for name, *face in FACES}
    return made


def navigation() -> list[dict[str, Any]]:
    """How the pages stand in the site's navigation."""
    groups = command_names()
    commands = [{group: [{f"densepack {name}": _command_page(name)} for name in groups[group]]} for group in groups]
    formats = [(file, name) for name, file, _, _ in FORMATS]
    formats += [("a benchmark", "benchmark"), ("the server", "server")]
    return [
        {"Commands": commands},
        {"Python": [{module.split(".")[0]: f"reference/api/{name}.md"} for name, _, module, _ in FACES]},
        {"Formats": [{title: f"reference/formats/{name}.md"} for title, name in formats]},
    ]


def _commands() -> Iterator[tuple[str, Any, Any]]:
    """Name, command and context of every command, as its --help would have them."""
    group: Any = typer.main.get_command(app)
    root = group.make_context("densepack", [], resilient_parsing=True)
    for name, command in group.commands.items():
        yield name, command, command.make_context(name, [], parent=root, resilient_parsing=True)


def _command_page(name: str) -> str:
    return f"reference/commands/{name}.md"


def _told_command(command: Any, context: Any) -> str:
    told, _, example = command.help.partition("Example: ")
    parts = [f"# densepack {command.name}", *told.split("\n\n"), f"```text\n{command.get_usage(context)}\n```"]
    if example:
        parts.append(f"For example:\n\n```sh\n{' '.join(example.split())}\n```")
    for kind in ("argument", "option"):
        records = [each.get_help_record(context) for each in command.params if each.param_type_name == kind]
        if rows := [_row(*record) for record in records if record]:
            parts.append(f"## {kind.capitalize()}s\n\n{table((kind, 'what it is', 'default, bounds'), rows)}")
    return _page(*parts)


def _row(names: str, told: str) -> tuple[str, str, str]:
    """Cells of a parameter: a help record, with what stands in brackets in a cell of its own."""
    parts = "; ".join(_BRACKETS.findall(f"{told} {names}")).removeprefix("default: ")
    names, told = _BRACKETS.sub("", names), _BRACKETS.sub("", told).replace("|", "\\|")
    return f"`{names}`", told, f"`{parts}`" if parts else ""


def _format_pages(name: str, file: str, told: str, schema: dict[str, Any]) -> dict[str, str]:
    """A format for readers, and its JSON schema for programs."""
    definitions = [_told_object(title, definition) for title, definition in schema["$defs"].items()]
    link = f"The same for programs: [{name}.schema.json]({name}.schema.json)."
    return {
        f"reference/formats/{name}.md": _page(f"# {file}", told, link, *definitions),
        f"reference/formats/{name}.schema.json": json.dumps(schema, indent=1, ensure_ascii=False) + "\n",
    }


def _told_object(title: str, schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = [
        (f"`{name}`", _type(field), "required" if name in required else _default(field), field.get("description", ""))
        for name, field in schema.get("properties", {}).items()
    ]
    columns = ("field", "type", "default", "")
    return _page(f"## {title}", *schema.get("description", "").split("\n\n"), table(columns, rows))


def _type(schema: Mapping[str, Any]) -> str:
    """The type of a field in a few words; other objects are links."""
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if choices := schema.get("anyOf", schema.get("oneOf")):
        return " or ".join(map(_type, choices))
    if "enum" in schema or "const" in schema:
        return " or ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type", "any")
    if kind == "array":
        return f"list of {_type(schema.get('items') or schema['prefixItems'][0])}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])} by name"
    return " or ".join([kind] if isinstance(kind, str) else kind)


def _default(schema: Mapping[str, Any]) -> str:
    return f"`{json.dumps(schema['default'], ensure_ascii=False)}`" if "default" in schema else ""


def _benchmark_page() -> str:
    documents = [json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8")) for name in BENCHMARKS]
    kinds: dict[str, str] = {}
    for document in documents:
        kinds |= dict(_outline(document))
    told = "What `densepack bench --json` prints and `--out` writes. [Measuring](../../measuring.md) explains it."
    return _page("# A benchmark", told, table(("field", "type"), [(f"`{name}`", kind) for name, kind in kinds.items()]))


def _outline(value: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every field of a document with its type; of a list, those of its entries."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _outline(part, f"{place}.{name}".removeprefix("."))
    elif isinstance(value, list) and value:
        for part in value:
            yield from _outline(part, f"{place}[]")
    elif value is not None and value not in ({}, []):
        yield place, {str: "string", bool: "boolean", int: "number", float: "number"}[type(value)]


def _server_pages() -> dict[str, str]:
    document = openapi("NAME", secured=True)
    rows = [
        (f"`{method.upper()} {path}`", told["summary"], ", ".join(told["responses"]))
        for path, methods in document["paths"].items()
        for method, told in methods.items()
        if method != "parameters"
    ]
    schemas = [_told_object(title, schema) for title, schema in document["components"]["schemas"].items()]
    told = "A server has this document at `/openapi.json`; [serving](../../serving.md) says how it behaves."
    link = "The same for programs: [openapi.json](openapi.json)."
    return {
        "reference/formats/server.md": _page(
            "# The server", told, link, table(("endpoint", "", "status"), rows), *schemas
        ),
        "reference/formats/openapi.json": json.dumps(document, indent=1, ensure_ascii=False) + "\n",
    }


def _face_page(told: str, module: str, names: tuple[str, ...]) -> str:
    """Public names of a module, for mkdocstrings to tell."""
    known = names or importlib.import_module(module).__all__
    return _page(f"# {module}", told, *(f"::: {module}.{name}" for name in known))


def _page(*parts: str) -> str:
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
