"""`python program.py` executes the cases in LlamaIndex Workflows, `umbel exec --llama-index program.py` on umbel."""

from __future__ import annotations

import asyncio
import json
import warnings

from support.llama_index.differential import definitions, failures, joins, routing, snapshots, state, streams
from support.llama_index.differential.cases import CASES, failure

warnings.simplefilter("ignore")

#: Importing these modules registers their cases.
SUBJECTS = (routing, joins, failures, definitions, state, streams, snapshots)


async def main() -> None:
    """Print the outcome of each case, a line of JSON each."""
    for name, function in CASES.items():
        try:
            found = await asyncio.wait_for(function(), 15)
        except BaseException as error:
            found = {"the case": failure(error)}
        print(json.dumps({name: found}, default=str), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
