"""Describes the module of a TensorRT that is importable: classes, their members, enums and signatures, as JSON.

    PYTHONPATH=OUT/python python -m tests.tensorrt_api.description tensorrt     # prints it
    api = describe("11.4.0.106")                                               # a dictionary; also "tensorrt_rtx"

Every version is imported in a process of its own, so that two never meet in one.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypedDict, cast

from tests.tensorrt_api.bindings import BindingsUnavailable, default_cache, true_bindings
from tests.tensorrt_api.signatures import Signature, signatures_in

DATACENTER_VERSIONS = ("10.16.1.11", "11.4.0.106")
RTX = "tensorrt_rtx"
"""Stands for the version of tensorrt-rtx that is installed."""
VERSIONS = (*DATACENTER_VERSIONS, RTX)
REPOSITORY = Path(__file__).resolve().parents[2]
_DESCRIBE_SECONDS = 60  # it takes less than one


class Member(TypedDict):
    """`type` is that of a property or value; `signatures` has one entry per overload of a method."""

    kind: Literal["method", "property", "value", "class"]
    type: str
    writable: bool
    signatures: list[Signature]


class Class(TypedDict):
    """`members` has the inherited ones and `__init__`, and no other name with two underscores."""

    bases: list[str]
    members: dict[str, Member]


class Api(TypedDict):
    """`names` has what the module itself holds: "class", "function", or the class of a value.

    A nested class is called "ILogger.Severity"; an enum is in both `classes` and `enums`.
    """

    module: str
    version: str
    names: dict[str, str]
    classes: dict[str, Class]
    enums: dict[str, dict[str, int]]


@functools.cache
def describe(version: str) -> Api:
    """The API of a version, one of VERSIONS. Raises BindingsUnavailable."""
    if version == RTX:
        if importlib.util.find_spec(RTX) is None:
            raise BindingsUnavailable("tensorrt-rtx is not installed: pip install 'densepack[rtx]'")
        module, environment = RTX, dict(os.environ)
    else:
        module, environment = "tensorrt", true_bindings(version, default_cache()).environment()
    command = [sys.executable, "-m", __name__, module]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=_DESCRIBE_SECONDS, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{module} {version} cannot be described:\n{done.stderr}")
    return cast(Api, json.loads(done.stdout))


def describe_module(module: ModuleType) -> Api:
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    public = {name: value for name, value in public.items() if not isinstance(value, ModuleType)}
    classes = dict(_all_classes({name: value for name, value in public.items() if inspect.isclass(value)}))
    return Api(
        module=module.__name__,
        version=str(module.__dict__["__version__"]),
        names={name: _kind_of_name(value) for name, value in public.items()},
        classes={name: _describe_class(value) for name, value in classes.items()},
        enums={
            name: {member: int(value) for member, value in value.__members__.items()}
            for name, value in classes.items()
            if hasattr(value, "__members__")
        },
    )


def _all_classes(found: dict[str, Any]) -> dict[str, Any]:
    """Those of the module, and those nested in them as "Outer.Inner"."""
    nested = {
        f"{outer}.{name}": value
        for outer, owner in found.items()
        for name, value in vars(owner).items()
        if inspect.isclass(value) and not name.startswith("_")
    }
    return found | nested


def _kind_of_name(value: object) -> str:
    if inspect.isclass(value):
        return "class"
    return "function" if callable(value) else type(value).__qualname__


def _describe_class(owner: type) -> Class:
    names = ["__init__", *(name for name in dir(owner) if not name.startswith("_"))]
    members = {name: _describe_member(name, inspect.getattr_static(owner, name)) for name in names}
    bases = [base.__name__ for base in owner.__mro__[1:] if base.__name__ not in ("pybind11_object", "object")]
    return Class(bases=bases, members=members)


def _describe_member(name: str, value: Any) -> Member:
    if inspect.isclass(value):
        return Member(kind="class", type=value.__qualname__, writable=False, signatures=[])
    if isinstance(value, property):
        read = signatures_in(value.fget.__doc__ or "") if value.fget else []
        result = read[0]["returns"] if read else ""
        return Member(kind="property", type=result, writable=value.fset is not None, signatures=[])
    function = getattr(value, "__func__", value)
    if callable(function):
        return Member(kind="method", type="", writable=False, signatures=signatures_in(value.__doc__ or "", name))
    return Member(kind="value", type=type(value).__qualname__, writable=False, signatures=[])


if __name__ == "__main__":
    json.dump(describe_module(importlib.import_module(sys.argv[1])), sys.stdout)
