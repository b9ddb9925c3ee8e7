"""The expected result of the code audit, counted in the simplest way: one process, one visitor, no workflow."""

from __future__ import annotations

import ast
import warnings
from collections import Counter
from pathlib import Path


class Counts(ast.NodeVisitor):
    """Counts one file. Branches belong to the function on top of the stack."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.totals: Counter[str] = Counter()
        self.complexities: dict[str, int] = {}
        self.lengths: dict[str, int] = {}
        self._stack: list[str | None] = [None]

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        where = f"{self.name}:{node.lineno} {node.name}"
        self.totals["functions"] += 1
        first = node.body[0]
        literal = first.value if isinstance(first, ast.Expr) else None
        if not (isinstance(literal, ast.Constant) and isinstance(literal.value, str)):
            self.totals["undocumented"] += 1
        self.complexities[where] = 1
        last = max(getattr(each, "end_lineno", None) or 0 for each in ast.walk(node))
        self.lengths[where] = last - node.lineno + 1
        self._stack.append(where)
        self.generic_visit(node)
        self._stack.pop()

    visit_AsyncFunctionDef = visit_FunctionDef

    def _branch(self, node: ast.AST, count: int = 1) -> None:
        function = self._stack[-1]
        if function is not None:
            self.complexities[function] += count
        self.generic_visit(node)

    visit_If = visit_IfExp = visit_For = visit_AsyncFor = visit_While = _branch
    visit_ExceptHandler = visit_match_case = visit_comprehension = _branch

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        self._branch(node, len(node.values) - 1)


def plain_audit(root: Path) -> tuple[Counter[str], dict[str, int], dict[str, int], dict[str, int], set[str]]:
    """Return totals; complexity, length and undocumented functions by place; names of files that do not parse."""
    totals: Counter[str] = Counter()
    complexities: dict[str, int] = {}
    lengths: dict[str, int] = {}
    undocumented: dict[str, int] = {}
    unparsable: set[str] = set()
    for path in root.glob("**/*.py"):
        name = path.relative_to(root).as_posix()
        if "site-packages" in name.split("/"):
            continue
        totals["files"] += 1
        source = path.read_bytes()
        counts = Counts(name)
        try:
            with warnings.catch_warnings(action="ignore"):
                counts.visit(ast.parse(source))
        except (SyntaxError, ValueError):
            unparsable.add(name)
            continue
        totals["lines"] += len(source.splitlines())
        totals += counts.totals
        complexities |= counts.complexities
        lengths |= counts.lengths
        undocumented[name] = counts.totals["undocumented"]
    return totals, complexities, lengths, undocumented, unparsable
