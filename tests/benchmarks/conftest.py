"""Makes the benchmarks importable as they are when started from the repository root."""

from __future__ import annotations

import sys

from support import ROOT

sys.path.append(str(ROOT))
