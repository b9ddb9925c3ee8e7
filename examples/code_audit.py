"""Audit a tree of Python sources, by default the standard library: one step per file, joined into a ranked report.

Parsing is CPU-bound, so its plain steps run in processes: the prefork pool.

$ umbel run --pool prefork examples/code_audit.py path=src top=20
$ python examples/code_audit.py
"""

import ast
import sysconfig
import threading
import warnings
from heapq import nlargest
from pathlib import Path

from pydantic import BaseModel, Field

from umbel import Context, Event, StartEvent, StopEvent, Workflow, local, step

Function = ast.FunctionDef | ast.AsyncFunctionDef
Branch = (
    ast.If | ast.IfExp | ast.For | ast.AsyncFor | ast.While | ast.ExceptHandler | ast.match_case | ast.comprehension
)
Ranking = list[tuple[int, str]]

#: In a thread pool, one file at a time: neither `ast.parse` (CPython issue 106905) nor warning filters are thread-safe.
parsing = threading.Lock()


class AuditRequest(StartEvent):
    path: str = Field(default_factory=lambda: sysconfig.get_paths()["stdlib"], description="The folder to audit")
    top: int = Field(default=10, ge=0, description="Rows per table")


class SourceFile(Event):
    root: str
    name: str
    number: int
    top: int


class FileAudit(Event):
    name: str
    lines: int = 0
    functions: int = 0
    undocumented: int = 0
    most_complex: Ranking = Field(default_factory=list)
    longest: Ranking = Field(default_factory=list)
    problem: str | None = None


class Progress(Event):
    msg: str


class AuditReport(BaseModel):
    files: int
    lines: int
    functions: int
    undocumented: int
    most_complex: Ranking
    longest: Ranking
    least_documented: Ranking
    unparsable: list[str]

    def __str__(self) -> str:
        sections = [
            f"{self.files:,} files, {self.lines:,} lines, {self.functions:,} functions, "
            f"{self.undocumented:,} of them without docstring",
            table("Most complex functions", self.most_complex),
            table("Longest functions, in lines", self.longest),
            table("Files with most functions without docstring", self.least_documented),
            "\n  ".join([f"Files that do not parse: {len(self.unparsable)}", *self.unparsable]),
        ]
        return "\n\n".join(sections)


class CodeAudit(Workflow):
    @step
    def find(self, ctx: Context, ev: AuditRequest) -> list[SourceFile]:
        root = Path(ev.path).resolve()
        if not root.is_dir():
            raise NotADirectoryError(f"There is no folder {root} to audit.")
        found = sorted(path.relative_to(root) for path in root.rglob("*.py"))
        names = [str(path) for path in found if "site-packages" not in path.parts]
        ctx.store.set("top", ev.top)
        ctx.write_event_to_stream(Progress(msg=f"{len(names):,} files in {root}"))
        return [SourceFile(root=str(root), name=name, number=n, top=ev.top) for n, name in enumerate(names, 1)]

    @step(num_workers=50)
    def audit(self, ctx: Context, file: SourceFile) -> FileAudit:
        if file.number % 100 == 0:
            ctx.write_event_to_stream(Progress(msg=f"file {file.number:,}: {file.name}"))
        try:
            source = Path(file.root, file.name).read_bytes()
            with parsing, warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about unusual literals in the audited files
                tree = ast.parse(source, filename=file.name)
        except (OSError, SyntaxError, ValueError, RecursionError) as error:
            return FileAudit(name=file.name, problem=f"{type(error).__name__}: {error}")
        functions = [node for node in ast.walk(tree) if isinstance(node, Function)]
        where = [f"{file.name}:{node.lineno} {node.name}" for node in functions]
        lengths = [(node.end_lineno or node.lineno) - node.lineno + 1 for node in functions]
        return FileAudit(
            name=file.name,
            lines=len(source.splitlines()),
            functions=len(functions),
            undocumented=sum(ast.get_docstring(node, clean=False) is None for node in functions),
            # The top entries of each file suffice to find the top entries of all files.
            most_complex=nlargest(file.top, zip(map(complexity, functions), where, strict=True)),
            longest=nlargest(file.top, zip(lengths, where, strict=True)),
        )

    @step
    def report(self, ctx: Context, audits: list[FileAudit]) -> StopEvent:
        top = ctx.store.get("top")
        report = AuditReport(
            files=len(audits),
            lines=sum(audit.lines for audit in audits),
            functions=sum(audit.functions for audit in audits),
            undocumented=sum(audit.undocumented for audit in audits),
            most_complex=nlargest(top, (best for audit in audits for best in audit.most_complex)),
            longest=nlargest(top, (best for audit in audits for best in audit.longest)),
            least_documented=nlargest(
                top, ((audit.undocumented, audit.name) for audit in audits if audit.undocumented)
            ),
            unparsable=sorted(f"{audit.name}: {audit.problem}" for audit in audits if audit.problem),
        )
        return StopEvent(result=report)


def complexity(function: ast.AST) -> int:
    """1, and 1 more for each if, elif, for, while, except, case, comprehension, `x if y else z`, `and` and `or`."""
    total, waiting = 1, list(ast.iter_child_nodes(function))
    while waiting:
        node = waiting.pop()
        if isinstance(node, Function):
            continue  # a nested function is counted separately
        total += isinstance(node, Branch) + (len(node.values) - 1 if isinstance(node, ast.BoolOp) else 0)
        waiting.extend(ast.iter_child_nodes(node))
    return total


def table(title: str, ranking: Ranking) -> str:
    return "\n".join([title, *(f"  {value:>6,}  {where}" for value, where in ranking)])


code_audit = CodeAudit(timeout=600)  # the instance that `umbel run` and the workers use

if __name__ == "__main__":
    with local(pool="prefork"):
        run = code_audit.start()
        for progress in run.events(types=[Progress]):
            print(progress.msg)
        print(run.result())
