"""Starts a run in a session and waits for its answer: `python -m support.programs.session_client SESSION TEXT`."""

from __future__ import annotations

import sys

import umbel
from support.flows.sessions import Chat

if __name__ == "__main__":
    print(umbel.session(sys.argv[1]).run(Chat(timeout=None), text=sys.argv[2]).result(), flush=True)
