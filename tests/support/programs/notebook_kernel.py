"""Executes a notebook as a kernel does: its cells in order, in one `__main__`, on one loop that runs on between them.

Prints what the cells print and, after `Out:`, the value of an expression at the end of a cell. The arguments are the
notebook and the ids of the cells to execute; a cell may be executed several times.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import sys
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any


async def run_cell(source: str, names: dict[str, Any]) -> None:
    """Execute one cell; the value of its last line is shown."""
    tree = ast.parse(source)
    last = tree.body[-1] if tree.body else None
    if isinstance(last, ast.Expr):
        del tree.body[-1]
    await evaluated(compile(tree, "<cell>", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True), names)
    if isinstance(last, ast.Expr):
        expression = ast.Expression(last.value)
        code = compile(expression, "<cell>", "eval", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        value = await evaluated(code, names)
        if value is not None:
            print(f"Out: {value!r}")


async def evaluated(code: CodeType, names: dict[str, Any]) -> Any:
    """Execute code that may have an `await` at its top level."""
    value = eval(code, names)
    return await value if code.co_flags & inspect.CO_COROUTINE else value


async def run_cells(sources: list[str]) -> None:
    """Execute cells one after the other."""
    main = ModuleType("__main__")  # without a file, as in a kernel
    sys.modules["__main__"] = main
    for source in sources:
        await run_cell(source, vars(main))
        await asyncio.sleep(0)


if __name__ == "__main__":
    notebook, *chosen = sys.argv[1:]
    cells = {each["id"]: "".join(each["source"]) for each in json.loads(Path(notebook).read_text())["cells"]}
    asyncio.run(run_cells([cells[name] for name in chosen]))
