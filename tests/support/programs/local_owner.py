"""A program that owns a `umbel.local()` deployment with worker processes until its stdin is closed or it is killed."""

from __future__ import annotations

import json
import sys

import umbel
from support.flows import everyday as flows

if __name__ == "__main__":
    with umbel.local(concurrency=1) as runtime:
        result = flows.Chain().start(n=5).result(timeout=40)
        print(json.dumps({"result": result, "url": runtime.settings.redis_url}), flush=True)
        sys.stdin.read()
