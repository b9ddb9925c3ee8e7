"""Where the model test leaves what it did, for the summary at the end of a session."""

from __future__ import annotations

import pytest

#: What each world of the model test did: scripts, runs, seed of the session.
MODEL_REPORTS = pytest.StashKey[list[tuple[int, int, int]]]()
