"""umbel: event-driven workflows on Celery. The public names are in `public_names.py`.

They are imported all together when the first of them is used: the command line imports this package too, and has to
answer a usage error, a completion or Ctrl-C at once, not after Celery, pydantic and the Redis client are loaded.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .public_names import *  # noqa: F403 - all of its names are this package's
    from .public_names import __all__ as __all__
else:

    def __getattr__(name: str) -> Any:
        if not name.isidentifier() or (name.startswith("__") and name != "__all__"):
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        names = importlib.import_module(".public_names", __name__)
        for each in ("__all__", *names.__all__):
            # The module `umbel.retry_policy` keeps its name where it has been imported before.
            globals().setdefault(each, getattr(names, each))
        if name in globals():
            return globals()[name]
        try:  # tracebacks name `umbel.errors.RunNotFound`: that has to be found by those who import only `umbel`
            return importlib.import_module(f".{name}", __name__)
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__getattr__("__all__")})
