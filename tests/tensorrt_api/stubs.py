"""Type stubs of TensorRT's compiled bindings: what pybind11-stubgen finds, without what C++ and Python read otherwise.

    PYTHONPATH=… python -m tests.tensorrt_api.stubs tensorrt_bindings.tensorrt OUT

The stubs of TensorRT 10.16 and 11.4 do not parse without this; the rest makes correct calls pass a strict check.
"""

from __future__ import annotations

import importlib
import keyword
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from pybind11_stubgen import CLIArgs, arg_parser, stub_parser_from_args
from pybind11_stubgen.printer import Printer
from pybind11_stubgen.structs import Argument, Class, Function, Identifier, Method, Module, QualifiedName, Value

PRINTER = Printer(invalid_expr_as_ellipses=True)
# A callback that says "-> None" and, in its description, ":returns: True on success, False otherwise".
_RETURNS_BOOL = {"process_debug_tensor"}
# Iterables and buffers through slots that the generator does not look at.
_ADDED = {
    "Dims": Function(Identifier("__iter__"), returns=Value("collections.abc.Iterator[int]")),
    "IHostMemory": Function(
        Identifier("__buffer__"),
        [Argument(Identifier("flags"), annotation=Value("int"))],
        returns=Value("memoryview"),
    ),
}


def write_stubs(name: str, folder: Path) -> None:
    """Write NAME.pyi below a folder, as packages and modules lie."""
    parser = stub_parser_from_args(arg_parser().parse_args(["--ignore-all-errors", name], namespace=CLIArgs()))
    module = parser.handle_module(QualifiedName.from_str(name), importlib.import_module(name))
    assert module is not None
    parser.finalize()  # type: ignore[no-untyped-call]
    repair(module)
    path = folder.joinpath(*name.split(".")).with_suffix(".pyi")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = ["# mypy: ignore-errors", *PRINTER.print_module(module)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def repair(module: Module) -> None:
    """Change what was found in its place."""
    # A DataType of this name would hide the builtin, which is what annotations mean by it.
    module.attributes = [attribute for attribute in module.attributes if attribute.name != "bool"]
    for owner in module.classes:
        if owner.name in _ADDED:
            added = _ADDED[owner.name]
            itself = Argument(Identifier("self"))
            owner.methods.append(Method(Function(added.name, [itself, *added.args], added.returns), None))
    for function in (*module.functions, *_methods(module.classes)):
        if function.name in _RETURNS_BOOL:
            function.returns = Value("bool")
        _repair_arguments(function.args)


def _methods(classes: Iterable[Class]) -> Iterator[Function]:
    for owner in classes:
        yield from (method.function for method in owner.methods)
        for of in owner.properties:
            yield from filter(None, (of.getter, of.setter))
        yield from _methods(owner.classes)


def _repair_arguments(arguments: Iterable[Argument]) -> None:
    optional = False
    for argument in arguments:
        if keyword.iskeyword(str(argument.name)):
            argument.name = Identifier(f"{argument.name}_")
        if argument.name == "self":
            argument.annotation = None  # often another class
        elif argument.annotation is not None:
            # What C++ hands to callbacks is an int; any sequence of numbers it converts to Dims.
            annotation = PRINTER.print_annotation(argument.annotation).replace("typing.SupportsInt", "int")
            if annotation == "Dims":
                annotation = "Dims | collections.abc.Sequence[int]"
            if argument.default == Value("None", is_print_safe=True) and "None" not in annotation:
                annotation += " | None"
            argument.annotation = Value(annotation)
        optional = optional or argument.default is not None
        if optional and argument.default is None and not (argument.variadic or argument.kw_variadic):
            argument.default = Value("...", is_print_safe=True)  # Python allows none without one after one with it


if __name__ == "__main__":
    write_stubs(sys.argv[1], Path(sys.argv[2]))
