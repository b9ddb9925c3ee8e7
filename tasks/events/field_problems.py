"""What pydantic found wrong with data, in one line."""

from __future__ import annotations

from pydantic import ValidationError


def field_problems(error: Exception) -> str:
    """`price: Input should be a valid number; name: Field required`, without the data themselves.

    An exception of another kind is named with its class.
    """
    if not isinstance(error, ValidationError):
        return f"{type(error).__qualname__}: {error}"
    return "; ".join(
        f"{'.'.join(map(str, problem['loc'])) or 'as a whole'}: {problem['msg']}"
        for problem in error.errors(include_input=False, include_url=False, include_context=False)
    )
