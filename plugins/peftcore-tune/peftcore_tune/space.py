"""What is searched: fields of a recipe with their ranges, from the user or from the schema."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from optuna.trial import Trial
from pydantic import BaseModel

from peftcore import ConfigError, PeftcoreError, installed, nearest, resolve
from peftcore_train import recipes
from peftcore_train.planning import rehearse
from peftcore_train.recipes import Document, Origin
from peftcore_train.schema import TrainSection, job_of
from peftcore_tune.section import Choice, Range, TuneSection, parsed

Space = dict[str, Range | Choice]
#: How far from its value a field with one bound is searched, and how often a guess is halved.
_FACTOR, _HALVINGS = 8, 4


def space_of(document: Document, section: TuneSection) -> Space:
    """Return what is searched, after every end of a range was checked and planned.

    Raises:
        PeftcoreError: a key or a range does not fit; nothing was trained.
    """
    known = guesses(document)
    wanted = section.parameters or dict.fromkeys(known)
    space: Space = {}
    for key, value in wanted.items():
        if value is not None:
            space[key] = parsed(key, value)
        elif key in known:
            space[key] = known[key]
        else:
            raise ConfigError(
                f"tune.parameters: {key} needs a range: its schema has none.{nearest(key, known)}"
            )
    found = {}
    for key, one in space.items():
        try:
            found[key] = _fitting(document, key, one)
        except ConfigError:
            # of what nobody named that is left out which this model cannot have
            if section.parameters:
                raise
    if not found:
        raise ConfigError("tune.parameters: there is nothing to search; name keys and ranges.")
    return found


def guesses(document: Document) -> Space:
    """Return the range of every field of the methods, and of the learning rate, by its key."""
    rate = document.at(("train", "learning_rate"))
    found = {"train.learning_rate": (TrainSection, {"learning_rate": rate} if rate else {})}
    space: Space = {}
    for i, choice in enumerate(document.data.get("methods") or ()):
        model = resolve(installed().find("methods", choice["method"]).config)
        found |= {f"methods[{i}].{name}": (model, choice) for name in model.model_fields}
    for key, (model, values) in found.items():
        one = _guess(model, key.rpartition(".")[2], values)
        if one is not None:
            space[key] = one
    return space


def _guess(model: type[BaseModel], name: str, values: Mapping[str, Any]) -> Range | Choice | None:
    """Return the range that the schema of a field allows; None where it tells of none."""
    schema = model.model_json_schema()["properties"][name]
    value = values.get(name, schema.get("default"))
    for part in (schema, *schema.get("anyOf", ())):
        if "enum" in part:
            return Choice(tuple(part["enum"]))
        if part.get("type") == "boolean":
            return Choice((False, True))
        if part.get("type") in ("integer", "number"):
            return _numbers(part, value)
    return None


def _numbers(part: Mapping[str, Any], value: Any) -> Range | None:
    whole = part["type"] == "integer"
    low, high = (part.get(name, part.get(f"exclusive{name.capitalize()}")) for name in _BOUNDS)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None  # it is not at work unless it is given
    if value:
        near = (max(1, value // _FACTOR) if whole else value / _FACTOR), value * _FACTOR
        low = near[0] if low is None else max(low, near[0])
        high = near[1] if high is None else min(high, near[1])
        if "exclusiveMaximum" in part and high == part["exclusiveMaximum"]:
            high = (value + high) / 2
        return Range(low, high, True, whole, guessed=True) if low < high else None
    if low is None or high is None:
        return None
    # a tenth away from an end that is not allowed itself
    rest = (high - low) / 10
    low += rest * ("exclusiveMinimum" in part)
    high -= rest * ("exclusiveMaximum" in part)
    return Range(low, high, False, whole, guessed=True)


_BOUNDS = ("minimum", "maximum")


def _fitting(document: Document, key: str, one: Range | Choice) -> Range | Choice:
    """Return a range whose ends can be planned; the upper end of a guess is halved until it can."""
    for halvings in range(_HALVINGS + 1):
        try:
            rehearse([job_of(changed(document, {key: value})) for value in one.ends])
            break
        except PeftcoreError as error:
            half = (one.low + one.high) / 2 if isinstance(one, Range) else 0
            high = int(half) if isinstance(one, Range) and one.whole else half
            fixed = not isinstance(one, Range) or not one.guessed or high <= one.low
            if fixed or halvings == _HALVINGS:
                raise ConfigError(f"tune.parameters: {key} {one.shown}: {error}") from error
            one = replace(one, high=high)
    return one


def changed(document: Document, values: Mapping[str, Any]) -> Document:
    """Return the recipe with values of a trial."""
    for key, value in values.items():
        document = recipes.override(document, key, value, Origin(f"tune.parameters: {key}", 0))
    return document


def suggested(trial: Trial, space: Space) -> dict[str, Any]:
    """Return the values that a trial tries, by key."""
    values: dict[str, Any] = {}
    for key, one in space.items():
        if isinstance(one, Choice):
            # a database keeps texts, and a choice may be a list
            texts = [json.dumps(value) for value in one.values]
            values[key] = json.loads(trial.suggest_categorical(key, texts))
        elif one.whole:
            values[key] = trial.suggest_int(key, int(one.low), int(one.high), log=one.log)
        else:
            values[key] = trial.suggest_float(key, one.low, one.high, log=one.log)
    return values
