"""Where the model test records what it did, for the summary at the end of a test session."""

from __future__ import annotations

import pytest

#: One entry per world of the model test: scripts, runs, seed of the session.
MODEL_REPORTS = pytest.StashKey[list[tuple[int, int, int]]]()
