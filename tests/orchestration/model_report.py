"""Where the model test leaves what it did, for the summary at the end of a session."""

from __future__ import annotations

import pytest

#: What the model test did, for the summary at the end: one line per world.
MODEL_REPORTS = pytest.StashKey[list[str]]()
