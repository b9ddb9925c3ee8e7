"""The state of a workflow that declares none: any keys."""

from __future__ import annotations

from typing import Any

from .dict_like_model import DictLikeModel


class DictState(DictLikeModel):
    """State with any keys: `state["k"]`, `state.k`, `"k" in state`, `del state["k"]`.

    A key that is also the name of a method (`items`, `copy`, …) is reached with `state["copy"]` and by path. Values are
    JSON or pydantic models.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        # Names of methods too: pydantic would set them on the instance, from where they are never stored.
        if name in type(self).model_fields or name.startswith("_"):
            super().__setattr__(name, value)
        else:
            self[name] = value

    def __delattr__(self, name: str) -> None:
        if name in self:
            del self[name]
        else:
            super().__delattr__(name)

    def __delitem__(self, key: str) -> None:
        del self._data[key]
