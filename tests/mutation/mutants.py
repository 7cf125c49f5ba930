"""Draws mutants: copies of a source file with one mistake."""

import ast
import inspect
import random
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import libcst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import mutators

Span = tuple[str, int, int]  # a function's qualified name and the first and last line of its body


@dataclass(frozen=True)
class Mutant:
    """A mistake: its file, line and function (None in the body of a module or class), the line and what became of it,
    and the file's text with it."""

    path: str
    line: int
    function: str | None
    before: str
    after: str
    source: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}\n    - {self.before}\n    + {self.after}"

    @property
    def key(self) -> tuple[str, str, str]:
        return self.path, self.before, self.after

    def exchange_code(self, functions: dict[tuple, list[types.FunctionType]]) -> None:
        """Give the loaded function with the mistake its new code; `functions` are the package's, by [`place`]."""
        for code in _outermost_functions(compile(self.source, str(Path(self.path).absolute()), "exec")):
            for function in functions[place(code)]:
                if function.__code__ != code:
                    function.__code__ = code


def place(code: types.CodeType) -> tuple[str, str, int]:
    """Where a function is defined."""
    return code.co_filename, code.co_qualname, code.co_firstlineno


def _outermost_functions(code: types.CodeType) -> Iterator[types.CodeType]:
    """The functions of a module and the methods of its classes, without what is defined inside them."""
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            is_function = constant.co_flags & inspect.CO_NEWLOCALS
            yield from [constant] if is_function else _outermost_functions(constant)


def function_spans(source: str) -> list[Span]:
    """All functions of a file, inner ones after those that hold them. Defaults of arguments are outside."""

    def walk(node: ast.AST, prefix: str) -> Iterator[Span]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                name = f"{prefix}{child.name}"
                if isinstance(child, ast.FunctionDef):
                    yield name, child.body[0].lineno, child.end_lineno
                yield from walk(child, f"{name}.")
            else:
                yield from walk(child, prefix)

    return list(walk(ast.parse(source), ""))


def function_at(spans: list[Span], line: int) -> str | None:
    """The innermost function around a line."""
    return next((name for name, first, last in reversed(spans) if first <= line <= last), None)


class _Points(libcst.CSTVisitor):
    """Collects the operators, keywords and numbers of a file, each with what it can be mistaken for."""

    METADATA_DEPENDENCIES = (PositionProvider,)
    OPERATORS = (
        (libcst.CSTNode, mutators.operator_swap_op),
        (libcst.CSTNode, mutators.operator_keywords),
        (libcst.UnaryOperation, mutators.operator_remove_unary_ops),
        (libcst.Name, mutators.operator_name),
        (libcst.BaseNumber, mutators.operator_number),
    )

    def __init__(self):
        self.found: list[tuple[libcst.CSTNode, libcst.CSTNode]] = []

    def on_visit(self, node: libcst.CSTNode) -> bool:
        for kind, operator in self.OPERATORS:
            if isinstance(node, kind):
                self.found += [(node, mutated) for mutated in operator(node)]
        if isinstance(node, libcst.Call) and isinstance(node.func, libcst.Name) and node.func.value == "zip":
            for argument in node.args:
                if not argument.keyword:
                    argument.visit(self)
            return False
        only_for_types = isinstance(node, libcst.If) and "TYPE_CHECKING" in libcst.Module([]).code_for_node(node.test)
        return not only_for_types and not isinstance(node, libcst.Annotation | libcst.Decorator)


def draw_mutants(paths: list[str], number: int, seed: int) -> list[Mutant]:
    """Draw mutants of these files, every mistake being equally likely, without replacement."""
    points = []
    for path in paths:
        wrapper, found = MetadataWrapper(libcst.parse_module(Path(path).read_text())), _Points()
        wrapper.visit(found)
        points += [(path, wrapper.module, *point) for point in found.found]
    return [_mutant(*point) for point in random.Random(seed).sample(points, min(number, len(points)))]


def _mutant(path: str, module: libcst.Module, node: libcst.CSTNode, mutated: libcst.CSTNode) -> Mutant:
    source = module.deep_replace(node, mutated).code
    lines = zip(module.code.splitlines(), source.splitlines(), strict=True)
    line, before, after = next((number, *pair) for number, pair in enumerate(lines, 1) if pair[0] != pair[1])
    return Mutant(path, line, function_at(function_spans(module.code), line), before.strip(), after.strip(), source)
