"""`ResourceConfig`: a part of a JSON file as a pydantic model."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticUserError

from .resource import ResourceDescriptor


class ResourceConfig(ResourceDescriptor):
    """In `Annotated[Model, ResourceConfig("app.json", "llm.fast")]`: the parameter receives a part of a JSON file.

    The file is read in the process that executes the step, when a step first needs it. The value is kept like that of
    a `Resource`: one read for each file, selector and type. Workers see a changed file after a restart, as with changed
    code. A relative path starts at the working directory.

    Args:
        config_file: Path of a `.json` file. It need not exist yet; `Workflow.validate` and the first run check.
        path_selector: Dotted path of keys that leads to an object in the file; None for the whole file.
        label: For drawings of the workflow.
        description: For drawings of the workflow.

    Raises:
        ValueError: `config_file` does not end in `.json`.
    """

    def __init__(
        self,
        config_file: str | PathLike[str],
        path_selector: str | None = None,
        label: str | None = None,
        description: str | None = None,
    ) -> None:
        self.config_file = str(Path(config_file))
        self.path_selector = path_selector or None
        self.label = label
        self.description = description
        self.name = self.config_file if self.path_selector is None else f"{self.config_file}.{self.path_selector}"
        if Path(config_file).suffix.lower() != ".json":
            raise ValueError(
                f"ResourceConfig reads JSON: expected a file that ends in .json, got {self.config_file!r}."
            )

    def key(self, type: Any) -> Hashable:
        """File, selector and annotated type."""
        try:
            hash(type)
        except TypeError:
            type = repr(type)
        return (self.config_file, self.path_selector, type)

    def make(self, type: Any, arguments: Mapping[str, Any]) -> Any:
        """Read the file.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: It is not JSON, the selector leads nowhere or not to an object, or the object does not fit.
        """
        chosen = self._chosen(self._read())
        try:
            # As JSON, not as Python values: strict models then accept the JSON forms of dates and sets.
            return TypeAdapter(type).validate_json(json.dumps(chosen))
        except ValidationError as error:
            problems = "; ".join(
                f"{'.'.join(map(str, each['loc'])) or 'the object'}: {each['msg']}"
                for each in error.errors(include_input=False, include_url=False)  # the input may be a secret
            )
            raise ValueError(
                f"{self._where} does not fit {_shown(type)}: {problems}. Found {_keys(chosen)}."
            ) from error
        except PydanticUserError as error:
            raise ValueError(
                f"{self._where} cannot become {_shown(type)}: expected a pydantic model as the annotated type. {error}"
            ) from error

    @property
    def _where(self) -> str:
        return f"Config file {self.config_file!r}" + (
            "" if self.path_selector is None else f", selector {self.path_selector!r},"
        )

    def _read(self) -> Any:
        path = Path(self.config_file)
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{self._where} does not exist: nothing found at {path.absolute()}. Give the process that file or the "
                "right working directory, or write an absolute path."
            ) from error
        except ValueError as error:
            raise ValueError(f"{self._where} is not JSON: {error}.") from error

    def _chosen(self, content: Any) -> dict[str, Any]:
        found, passed = content, "the file"
        for name in self.path_selector.split(".") if self.path_selector else ():
            if not isinstance(found, dict) or name not in found:
                raise ValueError(f"{self._where} leads nowhere: expected {name!r} in {passed}, found {_keys(found)}.")
            found, passed = found[name], repr(name)
        if not isinstance(found, dict):
            raise ValueError(f"{self._where} must lead to an object, found {_keys(found)}.")
        return found


def _keys(value: Any) -> str:
    if isinstance(value, dict):
        return f"the keys {', '.join(map(repr, value))}" if value else "an empty object"
    return {list: "a list", str: "a string", bool: "true or false", type(None): "null"}.get(type(value), "a number")


def _shown(type: Any) -> str:
    return getattr(type, "__qualname__", repr(type))
