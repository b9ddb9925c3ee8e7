"""What tests of several rooms share: workflows for worker processes, deployments, driven runs, faults.

Each package here is about one subject. Test files import from here and never from each other.
"""

from __future__ import annotations

from pathlib import Path

#: The folder that processes which import `support` need on their path.
TESTS = Path(__file__).resolve().parent.parent
#: The repository's root, which is the package `umbel` itself.
ROOT = TESTS.parent
