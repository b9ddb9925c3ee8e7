"""Workflows of the stored runs: the same code before and after the upgrade.

The old release executed them with HOLD_STEPS set: steps that call `held` stay there until their worker is
killed, `breaks` fails, and `Parcel` lacks a step. Today's worker executes them without. There they were one module, and
the stored data name their classes as parts of it.
"""

from .fan_outs import *  # noqa: F403 - so are the next two: all classes are parts of this module
from .single import *  # noqa: F403
from .values import *  # noqa: F403

for each in list(vars().values()):
    if isinstance(each, type) and each.__module__.startswith(f"{__name__}."):
        each.__module__ = __name__
