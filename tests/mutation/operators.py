"""Mutants of a module: its syntax tree with one small fault each.

Docstrings, annotations, imports, ``assert`` (for mypy) and message texts are not mutated.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
OPPOSITES = (
    ("min", "max"), ("amin", "amax"), ("argmin", "argmax"), ("minimum", "maximum"),
    ("any", "all"), ("floor", "ceil"), ("tril", "triu"), ("popleft", "pop"),
)  # fmt: skip
OPPOSITE = dict(OPPOSITES) | {second: first for first, second in OPPOSITES}
MODULES = {"np", "torch", "F", "nn", "init", "functional", "pa", "math"}  # not receivers
LEFT_ALONE = (ast.Import, ast.ImportFrom, ast.Assert, ast.JoinedStr)
ANNOTATIONS = {"annotation", "returns"}

Place = tuple[tuple[str, int | None], ...]  # fields and positions from the root


@dataclass(frozen=True)
class Mutant:
    """Mutated module; ``name`` is independent of other lines of the file."""

    name: str
    line: int
    tree: ast.Module


def mutants(source: str) -> list[Mutant]:
    """Return all mutants of a module's source, in line order."""
    tree = ast.parse(source)
    before = ast.unparse(tree).splitlines()
    found: dict[str, Mutant] = {}
    for place, node, scope in _walk(tree, (), "module"):
        for changed in _changes(node):
            mutated = _replaced(tree, place, changed)
            was, now = _difference(before, ast.unparse(mutated).splitlines())
            name = f"{scope}: {was} => {now}"
            found.setdefault(name, Mutant(name, getattr(node, "lineno", 0), mutated))
    return list(found.values())


def _difference(before: list[str], after: list[str]) -> tuple[str, str]:
    """The lines in which two programs that differ in one place differ."""
    start = 0
    while start < min(len(before), len(after)) and before[start] == after[start]:
        start += 1
    end = 0
    while end < min(len(before), len(after)) - start and before[-1 - end] == after[-1 - end]:
        end += 1
    was, now = (
        " | ".join(line.strip() for line in lines[start : len(lines) - end])
        for lines in (before, after)
    )
    return was, now


def _walk(node: ast.AST, place: Place, scope: str) -> Iterator[tuple[Place, ast.AST, str]]:
    yield place, node, scope
    if isinstance(node, LEFT_ALONE):
        return
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        scope = node.name
    for field, value in ast.iter_fields(node):
        if field in ANNOTATIONS:
            continue
        for index, child in enumerate(value if isinstance(value, list) else [value]):
            if isinstance(child, ast.AST):
                step = (field, index if isinstance(value, list) else None)
                yield from _walk(child, (*place, step), scope)


def _replaced(tree: ast.Module, place: Place, changed: ast.AST) -> ast.Module:
    """A copy of the tree with another node at a place."""
    tree = copy.deepcopy(tree)
    parent: ast.AST = tree
    for field, index in place[:-1]:
        child = getattr(parent, field)
        parent = child if index is None else child[index]
    field, index = place[-1]
    if index is None:
        setattr(parent, field, changed)
    else:
        getattr(parent, field)[index] = changed
    return ast.fix_missing_locations(tree)


def _changes(node: ast.AST) -> Iterator[ast.AST]:
    """What stands in a node's place in its mutants."""
    if isinstance(node, ast.Constant):
        yield from _constants(node)
    elif isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            for other in COMPARISONS[type(operator)]:
                yield _with(node, ops=[*node.ops[:index], other(), *node.ops[index + 1 :]])
    elif isinstance(node, (ast.BinOp, ast.AugAssign)):
        if type(node.op) in ARITHMETIC:
            yield _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.BoolOp):
        yield _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp):
        yield node.operand
    elif isinstance(node, (ast.If, ast.IfExp, ast.While)):
        yield _with(node, test=ast.UnaryOp(ast.Not(), node.test))
    elif isinstance(node, ast.comprehension):
        for index in range(len(node.ifs)):
            yield _with(node, ifs=node.ifs[:index] + node.ifs[index + 1 :])
    elif isinstance(node, ast.Slice):
        for bound in ("lower", "upper", "step"):
            if getattr(node, bound) is not None:
                yield _with(node, **{bound: None})
    elif isinstance(node, ast.Call):
        yield from _calls(node)
    elif isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        for index, decorator in enumerate(node.decorator_list):
            if isinstance(decorator, ast.Call):  # others change the kind of the object
                rest = node.decorator_list[:index] + node.decorator_list[index + 1 :]
                yield _with(node, decorator_list=rest)
    elif isinstance(node, ast.Raise) or (
        isinstance(node, ast.Expr) and not isinstance(node.value, (ast.Constant, ast.Yield))
    ):
        yield ast.Pass()
    elif isinstance(node, (ast.Continue, ast.Break)):
        yield ast.Break() if isinstance(node, ast.Continue) else ast.Continue()


def _constants(node: ast.Constant) -> Iterator[ast.AST]:
    if isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node.value, (int, float)):
        yield ast.Constant(node.value + 1)
        yield ast.Constant(node.value - 1)


def _calls(node: ast.Call) -> Iterator[ast.AST]:
    """The opposite function, one keyword argument less, or the receiver of the call."""
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if name in OPPOSITE:
        yield _with(node, func=_with(function, **{_name_field(function): OPPOSITE[name]}))
    for index in range(len(node.keywords)):
        yield _with(node, keywords=node.keywords[:index] + node.keywords[index + 1 :])
    if isinstance(function, ast.Attribute) and ast.unparse(function.value) not in MODULES:
        yield function.value
    elif node.args and not isinstance(node.args[0], (ast.Starred, ast.JoinedStr)):
        yield node.args[0]


def _name_field(function: ast.expr) -> str:
    return "attr" if isinstance(function, ast.Attribute) else "id"


def _with(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.copy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed
