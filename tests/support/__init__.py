"""Code shared by the tests of several folders: workflows for worker processes, deployments, driven runs, faults.

Each package here covers one subject. Test files import from here and never from each other.
"""

from __future__ import annotations

from pathlib import Path

#: The folder that must be on the import path of processes that import `support`.
TESTS = Path(__file__).resolve().parent.parent
#: The repository root, which is the package `umbel` itself.
ROOT = TESTS.parent
