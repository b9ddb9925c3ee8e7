"""Lint the Lua library: undeclared globals, unused and redefined locals, syntax, line length.

Redis loads a library composed of all files, so names are resolved on the composed text, as Redis resolves them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from luaparser import ast, astnodes

from umbel.orchestration.store import scripts

ROOT = Path(__file__).resolve().parent.parent
LUA = ROOT / "orchestration" / "store" / "lua"
LINE_LENGTH = 120

# The globals of a Redis script: those of Lua 5.1 without the ones Redis removes, and the libraries Redis adds.
# fmt: off
GLOBALS = frozenset({
    "ARGV", "KEYS", "assert", "bit", "cjson", "cmsgpack", "coroutine", "error", "getmetatable", "ipairs",
    "math", "next", "pairs", "pcall", "rawequal", "rawget", "rawset", "redis", "select", "server",
    "setmetatable", "string", "struct", "table", "tonumber", "tostring", "type", "unpack", "xpcall",
})
# fmt: on


@dataclass(frozen=True, order=True, slots=True)
class Finding:
    """One problem.

    Attributes:
        path: The file, relative to the repository.
        line: Counted from 1.
        text: What is wrong.
    """

    path: str
    line: int
    text: str


@dataclass(slots=True)
class Local:
    """A declared local: its name, the line of its declaration in the composed text, and whether it was read."""

    name: str
    line: int
    is_read: bool = False


@dataclass(slots=True)
class Resolver:
    """Resolves the names of one composed script, as Lua's block scoping does."""

    scopes: list[dict[str, Local]] = field(default_factory=lambda: [{}])
    locals: list[Local] = field(default_factory=list)
    findings: list[tuple[int, str]] = field(default_factory=list)
    line: int = 1  # of the node being visited: the parser gives none for some names

    def declare(self, names: Iterable[astnodes.Node]) -> None:
        """Add locals to the innermost block."""
        for name in names:
            if not isinstance(name, astnodes.Name):
                continue
            scope = self.scopes[-1]
            if name.id in scope and name.id != "_":
                self.findings.append((self.line, f"local '{name.id}' is declared twice in one block"))
            scope[name.id] = Local(name.id, self.line)
            if not name.id.startswith("_"):  # the underscore marks it as not read
                self.locals.append(scope[name.id])

    def find(self, name: str) -> Local | None:
        """The local of that name that is visible at this point."""
        return next((scope[name] for scope in reversed(self.scopes) if name in scope), None)

    def block(self, nodes: Iterable[object], names: Iterable[astnodes.Node] = ()) -> None:
        """Visit the statements of a block that begins with these locals."""
        self.scopes.append({})
        self.declare(names)
        self.visit(nodes)
        self.scopes.pop()

    def visit(self, node: object) -> None:
        """Visit a node or a list of nodes."""
        if isinstance(node, astnodes.Node):
            self.line = node.line or self.line
        match node:
            case list() | tuple():
                for each in node:
                    self.visit(each)
            case astnodes.Chunk():
                self.visit(node.body.body)
            case astnodes.Name():
                local = self.find(node.id)
                if local is not None:
                    local.is_read = True
                elif node.id not in GLOBALS:
                    self.findings.append((self.line, f"undeclared global '{node.id}'"))
            case astnodes.Index():
                self.visit(node.value)
                if node.notation is not astnodes.IndexNotation.DOT:
                    self.visit(node.idx)
            case astnodes.Field():
                if node.between_brackets:
                    self.visit(node.key)
                self.visit(node.value)
            case astnodes.Invoke():
                self.visit([node.source, node.args])
            case astnodes.LocalAssign():
                self.visit(node.values)
                self.line = node.line or self.line
                self.declare(node.targets)
            case astnodes.Assign():
                self.visit(node.values)
                for target in node.targets:
                    self.assign(target)
            case astnodes.LocalFunction():
                self.declare([node.name])
                self.block(node.body.body, node.args)
            case astnodes.Function():
                self.assign(node.name)
                self.block(node.body.body, node.args)
            case astnodes.AnonymousFunction():
                self.block(node.body.body, node.args)
            case astnodes.Fornum():
                self.visit([node.start, node.stop, node.step])
                self.block(node.body.body, [node.target])
            case astnodes.Forin():
                self.visit(node.iter)
                self.block(node.body.body, node.targets)
            case astnodes.Repeat():  # its condition sees the locals of its block
                self.block([node.body.body, node.test])
            case astnodes.Block():
                self.block(node.body)
            case astnodes.Node():
                self.visit([value for name, value in vars(node).items() if name[0] != "_" and name != "comments"])

    def assign(self, target: object) -> None:
        """Visit the target of an assignment. Redis refuses new globals when the line runs; this finds them earlier."""
        if not isinstance(target, astnodes.Name):
            self.visit(target)
        elif self.find(target.id) is None:
            self.findings.append((self.line, f"assignment to global '{target.id}'"))


def resolve(text: str) -> Resolver:
    """Resolve all names of a composed script.

    Raises:
        ast.SyntaxException: It is not valid Lua.
    """
    resolver = Resolver()
    resolver.visit(ast.parse(text))
    return resolver


def _origins(text: str) -> list[tuple[str, int] | None]:
    """For each line of the composed library, its file and line; None for lines that the loader adds."""
    origins: list[tuple[str, int] | None] = [None] * (text.count("\n") + 1)
    for path in LUA.rglob("*.lua"):
        lines = path.read_text().rstrip("\n").split("\n")
        at = f"\n{text}\n".find("\n" + "\n".join(lines) + "\n")
        if at < 0:
            raise LookupError(f"{path} is not in the library as it is in the file.")
        first = text[:at].count("\n")
        for line in range(len(lines)):
            origins[first + line] = (str(path.relative_to(ROOT)), line + 1)
    return origins


def _lint_names() -> Iterator[Finding]:
    text = scripts.code(str.rstrip)  # with comments, so that line numbers match the files
    try:
        resolver = resolve(text)
    except ast.SyntaxException as error:
        yield Finding(str(LUA.relative_to(ROOT)), 1, f"syntax error in the composed library: {error}")
        return
    origins = _origins(text)
    for line, problem in resolver.findings:
        yield Finding(*(origins[line - 1] or ("the composed library", line)), problem)
    for local in resolver.locals:
        origin = origins[local.line - 1]
        if origin is not None and not local.is_read:
            yield Finding(*origin, f"unused local '{local.name}'")


def _lint_lines() -> Iterator[Finding]:
    for path in LUA.rglob("*.lua"):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            where = str(path.relative_to(ROOT))
            if len(line) > LINE_LENGTH and not line.startswith("--!"):  # a directive is one line, however long
                yield Finding(where, number, f"line of {len(line)} characters, {LINE_LENGTH} are allowed")
            if line != line.rstrip() or "\t" in line:
                yield Finding(where, number, "trailing blanks or a tab")


def main() -> int:
    """Print the findings; returns 1 if there are any."""
    findings = sorted({*_lint_names(), *_lint_lines()})
    for finding in findings:
        print(f"{finding.path}:{finding.line}: {finding.text}")
    print(f"Lua: {len(findings)} problems" if findings else "Lua: no problems")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
