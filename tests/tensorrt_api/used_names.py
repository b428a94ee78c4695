"""What source files touch of TensorRT, found by reading them: module attributes, methods, properties, overrides, calls.

    for use in uses_in(Path("engine.py").read_text()): use.reference, use.line, use.guard

The module object is called `trt` in our code. An object is TensorRT's when its annotation says so
(`trt_types.Builder`), when it comes out of an expression that begins with one (`network = builder.create_network()`),
or, annotated Any or not at all, when it has one of the names of CONVENTIONS. An annotation with any other class takes
a name out, and so does a value that is a literal, a call of a class, or a part of something that is taken out. A
function with the word rtx in its name is one for TensorRT for RTX alone.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tests.tensorrt_api.class_members import added_members, class_fields
from tests.tensorrt_api.references import (
    CONVENTIONS,
    FOREIGN,
    MODULE_NAMES,
    Binding,
    Call,
    Reference,
    annotated_binding,
    element_annotation,
    is_module,
    is_self,
)
from tests.tensorrt_api.source_guards import ANYWHERE, Guard, ends_block, narrowed


@dataclass(frozen=True, slots=True)
class Use:
    """One place. `asked` is a hasattr or a getattr with a default, which need not exist.

    `call` is how it is called there, `assigned` that it is written to; an override has the call that TensorRT makes.
    `added` says that a subclass of ours has an attribute of this name, or a method that its file calls.
    """

    line: int
    reference: Reference
    guard: Guard
    call: Call | None = None
    assigned: bool = False
    asked: bool = False
    added: bool = False


@dataclass(slots=True)
class Scope:
    """Names and their annotations; a class scope holds its attributes, which are reached through self."""

    is_class: bool = False
    bindings: dict[str, Binding] = field(default_factory=dict)
    annotations: dict[str, ast.expr] = field(default_factory=dict)


def uses_in(source: str, fields: Mapping[str, Binding] | None = None) -> list[Use]:
    """Uses in the order of the text. `fields` are attributes that classes of other files annotate (class_fields)."""
    tree = ast.parse(source)
    walk = _Walk({**(fields or {}), **class_fields([tree])})
    walk.visit(tree)
    added = added_members(tree)
    return [replace(use, added=use.reference.tail() in added) for use in walk.uses]


class _Walk(ast.NodeVisitor):
    def __init__(self, fields: Mapping[str, Binding]) -> None:
        self.uses: list[Use] = []
        self.fields = fields
        self.scopes = [Scope()]
        self.guard = ANYWHERE
        self.constants: dict[str, str] = {}

    # What a name or an expression stands for.

    def reference(self, node: ast.expr) -> Reference | None:
        """None for what is not TensorRT's."""
        if is_module(node):
            return Reference()
        if isinstance(node, ast.Call):
            return self.reference(node.func)
        if isinstance(node, ast.Name):
            return self._named(node.id, self._binding(node.id))
        if isinstance(node, ast.Attribute):
            inner = self.reference(node.value)
            if inner is not None:
                return inner.then(node.attr)
            return self._named(node.attr, self._attribute_binding(node))
        return None

    def _named(self, name: str, binding: Binding) -> Reference | None:
        if binding is FOREIGN:
            return None
        convention = CONVENTIONS.get(name.lstrip("_"), ())
        if isinstance(binding, Reference):
            return binding.otherwise(convention)
        return Reference(convention) if convention else None

    def _binding(self, name: str) -> Binding:
        inner, *outer = reversed(self.scopes)
        for scope in (inner, *(scope for scope in outer if not scope.is_class)):
            if name in scope.bindings:
                return scope.bindings[name]
        return None

    def _attribute_binding(self, node: ast.Attribute) -> Binding:
        owner = self._class_scope()
        if is_self(node.value) and owner is not None and node.attr in owner.bindings:
            return owner.bindings[node.attr]
        return self.fields.get(node.attr)

    def _class_scope(self) -> Scope | None:
        return next((scope for scope in reversed(self.scopes) if scope.is_class), None)

    # Uses.

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._add(node, call=None)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Attribute):
            self._add(node.func, call=_call_of(node))
        else:
            self._add_asked(node)
            self.visit(node.func)
        for argument in (*node.args, *node.keywords):
            self.visit(argument)

    def _add(self, node: ast.Attribute, call: Call | None) -> None:
        self.visit(node.value)
        inner = self.reference(node.value)
        if inner is not None and not node.attr.startswith("__"):
            assigned = isinstance(node.ctx, ast.Store)
            self.uses.append(Use(node.lineno, inner.then(node.attr), self.guard, call=call, assigned=assigned))

    def _add_asked(self, node: ast.Call) -> None:
        """Hasattr and getattr with a literal name."""
        if isinstance(node.func, ast.Name) and node.func.id in ("hasattr", "getattr") and len(node.args) >= 2:
            inner, name = self.reference(node.args[0]), node.args[1]
            if inner is not None and isinstance(name, ast.Constant) and isinstance(name.value, str):
                asked = node.func.id == "hasattr" or len(node.args) == 3
                self.uses.append(Use(node.lineno, inner.then(name.value), self.guard, asked=asked))

    # Scopes and bindings.

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        for part in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
            self.visit(part)
        scope, arguments = Scope(), node.args
        for argument in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs):
            if argument.annotation is not None:
                scope.annotations[argument.arg] = argument.annotation
                scope.bindings[argument.arg] = annotated_binding(argument.annotation)
        self.scopes.append(scope)
        before = self.guard
        if "rtx" in node.name.split("_"):
            self.guard = replace(before, flavours=before.flavours & {"tensorrt-rtx"})
        self._block(node.body)
        self.guard = before
        self.scopes.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self.visit(node.body)

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for part in (*node.decorator_list, *node.bases):
            self.visit(part)
        for base in node.bases:
            self._add_overrides(node, self.reference(base))
        self.scopes.append(Scope(is_class=True))
        self._block(node.body)
        self.scopes.pop()

    def _add_overrides(self, node: ast.ClassDef, base: Reference | None) -> None:
        """Public methods of a subclass are those that TensorRT calls; a misspelt one would never be."""
        for method in node.body:
            if base is not None and isinstance(method, ast.FunctionDef) and not method.name.startswith("_"):
                call = Call(len(method.args.posonlyargs) + len(method.args.args) - 1, frozenset())
                self.uses.append(Use(method.lineno, base.then(method.name), self.guard, call=call))

    def visit_Import(self, node: ast.Import | ast.ImportFrom) -> None:
        for alias in node.names:
            name = (alias.asname or alias.name).partition(".")[0]
            if name not in MODULE_NAMES:
                self.scopes[-1].bindings[name] = FOREIGN

    visit_ImportFrom = visit_Import  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)
        self.visit(node.target)
        self._bind(node.target, annotated_binding(node.annotation), node.annotation)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.visit(node.value)
        for target in node.targets:
            self.visit(target)
            self._bind(target, self._value_binding(node.value), self._annotation(node.value))
            if isinstance(target, ast.Name) and isinstance(node.value, ast.Constant):
                self.constants[target.id] = str(node.value.value)

    def visit_NamedExpr(self, node: ast.NamedExpr) -> None:
        self.visit(node.value)
        self._bind(node.target, self._value_binding(node.value), self._annotation(node.value))

    def _value_binding(self, value: ast.expr) -> Binding:
        if isinstance(value, ast.Constant) and value.value is None:
            return None
        if isinstance(value, _LITERALS) or _calls_a_class(value) or self._is_part_of_foreign(value):
            return FOREIGN
        if isinstance(value, ast.Name):
            return self._binding(value.id)
        return self._value_binding(value.body) if isinstance(value, ast.IfExp) else self.reference(value)

    def _is_part_of_foreign(self, value: ast.expr) -> bool:
        while isinstance(value, ast.Attribute | ast.Subscript | ast.Call):
            if isinstance(value, ast.Attribute) and is_self(value.value):
                return self._attribute_binding(value) is FOREIGN
            value = value.func if isinstance(value, ast.Call) else value.value
        return isinstance(value, ast.Name) and self._binding(value.id) is FOREIGN

    def _annotation(self, value: ast.expr) -> ast.expr | None:
        """The annotation of a name or of an attribute of self."""
        if isinstance(value, ast.Name):
            return next(
                (scope.annotations[value.id] for scope in self.scopes[::-1] if value.id in scope.annotations), None
            )
        owner = self._class_scope()
        if isinstance(value, ast.Attribute) and is_self(value.value) and owner is not None:
            return owner.annotations.get(value.attr)
        return None

    def _bind(self, target: ast.expr, binding: Binding, annotation: ast.expr | None) -> None:
        scope: Scope | None = None
        if isinstance(target, ast.Name):
            scope, name = self.scopes[-1], target.id
        elif isinstance(target, ast.Attribute) and is_self(target.value):
            scope, name = self._class_scope(), target.attr
        if scope is not None:
            scope.bindings[name] = binding
            if annotation is not None:
                scope.annotations[name] = annotation

    def _bind_elements(self, target: ast.expr, iterated: ast.expr) -> None:
        """Names of a loop, from the annotation of what it goes over."""
        function = iterated.func.id if isinstance(iterated, ast.Call) and isinstance(iterated.func, ast.Name) else ""
        arguments = iterated.args if isinstance(iterated, ast.Call) else []
        if function == "enumerate" and isinstance(target, ast.Tuple):
            self._bind_elements(target.elts[-1], arguments[0])
        elif function == "zip" and isinstance(target, ast.Tuple):
            for one, argument in zip(target.elts, arguments, strict=False):
                self._bind_elements(one, argument)
        elif function in ("sorted", "reversed", "list", "tuple") and arguments:
            self._bind_elements(target, arguments[0])
        else:
            annotation = self._annotation(iterated)
            element = element_annotation(annotation) if annotation is not None else None
            foreign = FOREIGN if self._is_part_of_foreign(iterated) else None
            self._bind(target, foreign if element is None else annotated_binding(element), element)

    # Flow: what is known where a statement runs.

    def _block(self, statements: list[ast.stmt]) -> None:
        before = self.guard
        for statement in statements:
            self.visit(statement)
            if isinstance(statement, ast.If) and ends_block(statement.body):
                self.guard = self._narrowed(statement.test, truth=False)
            elif isinstance(statement, ast.If) and ends_block(statement.orelse):
                self.guard = self._narrowed(statement.test, truth=True)
        self.guard = before

    def _narrowed(self, test: ast.expr, *, truth: bool) -> Guard:
        return narrowed(self.guard, test, truth=truth, reference=self.reference, constants=self.constants)

    def generic_visit(self, node: ast.AST) -> None:
        for _, value in ast.iter_fields(node):
            if isinstance(value, list) and value and isinstance(value[0], ast.stmt):
                self._block(value)
            else:
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        self.visit(child)

    def visit_If(self, node: ast.If | ast.IfExp) -> None:
        self.visit(node.test)
        before = self.guard
        for branch, truth in ((node.body, True), (node.orelse, False)):
            self.guard = self._narrowed(node.test, truth=truth)
            if isinstance(branch, list):
                self._block(branch)
            else:
                self.visit(branch)
            self.guard = before

    visit_IfExp = visit_If  # noqa: N815

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        before = self.guard
        for value in node.values:
            self.visit(value)
            self.guard = self._narrowed(value, truth=isinstance(node.op, ast.And))
        self.guard = before

    def visit_For(self, node: ast.For) -> None:
        self.visit(node.iter)
        self._bind_elements(node.target, node.iter)
        self._block(node.body)
        self._block(node.orelse)

    def _visit_comprehension(self, node: ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp) -> None:
        before = self.guard
        self.scopes.append(Scope())
        for generator in node.generators:
            self.visit(generator.iter)
            self._bind_elements(generator.target, generator.iter)
            for test in generator.ifs:
                self.visit(test)
                self.guard = self._narrowed(test, truth=True)
        for part in (node.key, node.value) if isinstance(node, ast.DictComp) else (node.elt,):
            self.visit(part)
        self.scopes.pop()
        self.guard = before

    visit_ListComp = visit_SetComp = visit_GeneratorExp = visit_DictComp = _visit_comprehension  # noqa: N815


_LITERALS = (
    *(ast.Constant, ast.JoinedStr, ast.Dict, ast.List, ast.Tuple, ast.Set),
    *(ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.Compare, ast.Lambda),
)


def _calls_a_class(value: ast.expr) -> bool:
    """A call of a name that begins as names of classes do."""
    function = value.func if isinstance(value, ast.Call) else None
    return isinstance(function, ast.Name) and function.id.lstrip("_")[:1].isupper()


def _call_of(node: ast.Call) -> Call | None:
    """None where the arguments cannot be counted."""
    unpacked = any(isinstance(argument, ast.Starred) for argument in node.args)
    keywords = [keyword.arg for keyword in node.keywords]
    if unpacked or None in keywords:
        return None
    return Call(len(node.args), frozenset(filter(None, keywords)))
