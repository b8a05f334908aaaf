"""Strict pydantic models whose errors are our sentences."""

from functools import cache
from math import isfinite
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from peftcore.errors import ConfigError, nearest

#: Larger numbers are infinite in a tensor of 32-bit floats, or no index of one.
_LARGEST_FLOAT, _LARGEST_INT = 3.4e38, 2**63 - 1


class Strict(BaseModel):
    """Base of every section of a recipe: frozen, unknown keys refused, defaults validated.

    ``true`` is no number, and numbers are such as tensors can hold.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_numbers(cls, value: Any, info: ValidationInfo) -> Any:
        annotation: Any = cls.model_fields[str(info.field_name)].annotation
        kinds = _kinds(annotation)
        if kinds & {int, float} and not kinds & {bool, Any, object}:
            _check_numbers(value, "number" if float in kinds else "integer", depth=3)
        return value


@cache
def _kinds(annotation: Any) -> frozenset[Any]:
    """Return the types of which an annotation is made."""
    if annotation is Any or (isinstance(annotation, type) and not get_args(annotation)):
        return frozenset({annotation})
    return frozenset().union(*(_kinds(part) for part in get_args(annotation) if _hashable(part)))


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _check_numbers(value: Any, word: str, depth: int) -> None:
    """Refuse numbers, also inside of lists and mappings, that are none or that no tensor holds."""
    if isinstance(value, bool):
        raise ValueError(f"input should be a valid {word}")
    if isinstance(value, int) and abs(value) > _LARGEST_INT:
        raise ValueError("input should be a number below 2**63")
    if isinstance(value, float) and not (isfinite(value) and abs(value) <= _LARGEST_FLOAT):
        raise ValueError("input should be a finite number below 3.4e38")
    if depth and isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            _check_numbers(part, word, depth - 1)


def validated(model: type[BaseModel], data: Any, *, where: str, label: str) -> Any:
    """Validate data against a pydantic model.

    Args:
        model: the pydantic model.
        data: a mapping, or an instance of the model.
        where: prefix of the messages, such as ``methods[0]``.
        label: whose fields these are, for the message: ``lora``.

    Raises:
        ConfigError: all problems at once, one sentence each.
    """
    if isinstance(data, model):
        return data
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise ConfigError([m for _, m in problems(error, model, where, label)]) from None


def problems(
    error: ValidationError, model: type[BaseModel], where: str, label: str
) -> list[tuple[tuple[str | int, ...], str]]:
    """Turn a validation error into (location, sentence) pairs."""
    found: dict[tuple[str | int, ...], str] = {}
    for item in error.errors():
        loc = tuple(item["loc"])
        if item["type"] == "extra_forbidden":
            known = _fields_at(model, loc[:-1])
            hint = nearest(str(loc[-1]), known) or f" Its fields: {', '.join(known)}."
            found[loc] = f"{_dotted(where, loc)} is not a field of {label}.{hint}"
            continue
        reason = item["msg"].removeprefix("Value error, ")
        shown = "" if item["type"] == "missing" else f" (got {_short(item.get('input'))})"
        key = _real_location(model, loc)
        message = f"{_dotted(where, key)}: {reason[:1].lower()}{reason[1:]}{shown}."
        if key in found:
            continue  # the further arms of a union say nothing new
        found[key] = message
    return list(found.items())


def _short(value: Any) -> str:
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # thousands of digits, or of brackets
        return f"a {type(value).__name__} that is too large to print"
    return text if len(text) <= 60 else text[:57] + "..."


def _real_location(model: type[BaseModel], loc: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """Drop the names of union arms that pydantic puts into a location."""
    info = model.model_fields.get(str(loc[0])) if loc else None
    if info is None or len(loc) == 1:
        return loc
    nested = _model_in(info)
    return loc[:1] if nested is None else (loc[0], *_real_location(nested, loc[1:]))


def _model_in(info: FieldInfo) -> type[BaseModel] | None:
    candidates = (info.annotation, *get_args(info.annotation))
    for candidate in candidates:
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _fields_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    for part in loc:
        info = model.model_fields.get(str(part))
        nested = _model_in(info) if info else None
        if nested is None:
            break
        model = nested
    return [info.alias or name for name, info in model.model_fields.items()]


def _dotted(where: str, loc: tuple[str | int, ...]) -> str:
    out = where
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else str(part)
    return out
