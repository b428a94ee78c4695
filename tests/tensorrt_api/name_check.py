"""Judges uses of TensorRT by a description of its true API.

for line, fault in faults(uses_in(source), describe("11.4.0.106")): ...
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tests.tensorrt_api.description import RTX, Api, Member
from tests.tensorrt_api.references import Reference
from tests.tensorrt_api.signatures import accepts
from tests.tensorrt_api.source_guards import Guard
from tests.tensorrt_api.used_names import Use


def faults(uses: Iterable[Use], api: Api) -> Iterator[tuple[Use, str]]:
    """Uses that this API does not have where they are reached, with what is wrong."""
    for use in uses:
        if not use.asked and _is_reached(use.guard, api):
            fault = _fault(use, api)
            if fault:
                yield use, f"{use.reference} {fault} in {api['module']} {api['version']}"


def _is_reached(guard: Guard, api: Api) -> bool:
    flavour = "tensorrt-rtx" if api["module"] == RTX else "tensorrt"
    present = all(exists(reference, api) is not False for reference in guard.present)
    return flavour in guard.flavours and present and not any(exists(reference, api) for reference in guard.absent)


def exists(reference: Reference, api: Api) -> bool | None:
    """None where the API does not say of what class the object before the last step is."""
    name = reference.steps[-1]
    if reference.steps == (name,) and not reference.classes:
        return name in api["names"]
    owners = _classes_at(reference, api)
    return bool(_members(owners, str(name), api)) if owners else None


def _fault(use: Use, api: Api) -> str:
    """Why a use is wrong; "" where it is right or cannot be judged."""
    found = exists(use.reference, api)
    if not found:
        return "does not exist" if found is False and not use.added else ""
    name, owners = str(use.reference.steps[-1]), _classes_at(use.reference, api)
    members = _members(owners, name, api) if owners else _constructors(name, api)
    if use.assigned and members and not any(member["writable"] for member in members):
        return "cannot be assigned"
    signatures = [signature for member in members for signature in member["signatures"]]
    call = use.call
    if call is None or not signatures or any(accepts(one, call.positional, call.keywords) for one in signatures):
        return ""
    keywords = "".join(f", {keyword}=" for keyword in sorted(call.keywords))
    return f"does not take {call.positional} positional arguments{keywords}"


def _constructors(name: str, api: Api) -> list[Member]:
    return [api["classes"][name]["members"]["__init__"]] if name in api["classes"] else []


def _members(owners: tuple[str, ...], name: str, api: Api) -> list[Member]:
    found = [api["classes"][owner]["members"].get(name) for owner in owners if owner in api["classes"]]
    return [member for member in found if member is not None]


def _classes_at(reference: Reference, api: Api) -> tuple[str, ...]:
    """Classes of the object that the last step is taken from; () at the module and where that is not known."""
    classes = reference.classes
    at_module = not classes
    for step in reference.steps[:-1]:
        if isinstance(step, tuple):
            classes = classes or step
        elif at_module:
            kind = api["names"].get(step, "")
            classes = (step,) if kind == "class" else (kind,)
        else:
            classes = tuple(kind for member in _members(classes, step, api) for kind in _results(member))
        at_module = False
        classes = tuple(kind for kind in classes if kind in api["classes"])
    return classes


def _results(member: Member) -> list[str]:
    return [member["type"], *(signature["returns"] for signature in member["signatures"])]
