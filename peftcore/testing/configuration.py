"""What every configuration of a method or a task must be."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from peftcore.errors import ConfigError
from peftcore.schema import validated


def check_described(model: type[BaseModel], whose: str) -> None:
    """Check that every field says what it is.

    Raises:
        AssertionError: one does not.
    """
    bare = [name for name, info in model.model_fields.items() if not info.description]
    assert not bare, f"{whose}: fields without a description: {', '.join(bare)}"


def check_round_trip(model: type[BaseModel], data: Mapping[str, Any]) -> None:
    """Check that a configuration survives YAML and JSON.

    Raises:
        AssertionError: what is read back differs.
    """
    config = model.model_validate(dict(data))
    dumped = config.model_dump(mode="json")
    assert model.model_validate(yaml.safe_load(yaml.safe_dump(dumped))) == config
    assert model.model_validate(json.loads(json.dumps(dumped))) == config
    assert model.model_json_schema()["type"] == "object"


def check_unknown_field(model: type[BaseModel], label: str) -> None:
    """Check that a field which does not exist is refused, with the nearest one.

    Raises:
        AssertionError: it is taken, or the sentence does not name it.
    """
    name = next((name for name in model.model_fields if len(name) > 2), "rank")
    typo = name[:-2] + name[-1] + name[-2] + "x"
    try:
        validated(model, {typo: 1}, where="methods[0]", label=label)
    except ConfigError as error:
        assert f"{typo} is not a field of {label}" in str(error), str(error)
    else:
        raise AssertionError(f"{label} takes {typo}, a field that it does not have")


def has_defaults(model: type[BaseModel]) -> bool:
    """Tell whether a configuration needs no values."""
    try:
        model()
    except ValidationError:
        return False
    return True
