"""What a recipe compares: sets of methods, their settings and seeds. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from math import prod
from typing import Any, NamedTuple

from pydantic import Field

from peftcore import ConfigError, Strict, installed
from peftcore_train.recipes import (
    METHODS,
    NAME,
    Document,
    Loc,
    Problems,
    checked,
    dotted,
    override,
)

#: Arms of one comparison, and runs of it.
_ARMS, _RUNS = 100, 2000
#: Sections of a recipe that say what is compared or searched, and are no part of a run.
_SECTIONS = ("compare", "seeds")


def sections() -> set[str]:
    """Return the sections that are no part of a run; those of commands among them."""
    commands = installed().commands.values()
    return {*_SECTIONS, *(command.name for command in commands if command.section)}


class Arm(Strict):
    """One of several sets of methods that are compared."""

    methods: tuple[dict[str, Any], ...] = Field(
        max_length=METHODS,
        description="Methods with their configuration; an empty list trains the head alone.",
    )
    set: dict[str, Any] = Field(
        {}, description="Changes of this arm, as for `--set`: `train.learning_rate: 1e-3`."
    )
    grid: dict[str, list[Any]] = Field(
        {},
        description="Settings to choose from by the validation score, for `peftcore compare`:"
        " `train.learning_rate: [1e-3, 3e-3]`. Several keys give every combination.",
    )


class Part(NamedTuple):
    """A whole recipe for one run of a comparison.

    Attributes:
        arm: name of the arm, or an empty string where the recipe has none.
        setting: what was chosen from the arm's grid.
        seed: the seed; None where the recipe names none to compare.
        document: the recipe.
    """

    arm: str
    setting: dict[str, Any]
    seed: int | None
    document: Document


def arms(document: Document, found: Problems) -> Iterator[tuple[str, Document]]:
    """Yield (name, recipe) of each set of methods under ``compare``; else one without a name.

    Each is a whole recipe: the document with the arm's methods and its changes.
    """
    if "compare" not in document.data:
        yield "", _without(document)
        return
    if "methods" in document.data:
        found.add(document, ("methods",), "give methods or compare, not both.")
    compare = document.data["compare"]
    if not isinstance(compare, dict) or not compare:
        found.add(document, ("compare",), "compare: name at least one arm, as NAME: [methods].")
        return
    if len(compare) > _ARMS:
        sentence = f"compare: {len(compare):,} arms; one recipe compares at most {_ARMS}."
        found.add(document, ("compare",), sentence)
        return
    for name, value in compare.items():
        loc: Loc = ("compare", name)
        if not NAME.fullmatch(name):
            found.add(document, loc, f"compare: arm {name!r}: use letters, digits, - and _ only.")
        if value is None:
            found.add(document, loc, f"{dotted(loc)}: write [] for the head alone.")
            continue
        arm = checked(document, Arm, found, loc=loc, label="an arm of compare")
        if arm is None:
            continue
        try:
            yield name, _arm(document, name, arm)
        except ConfigError as error:
            found.add(document, (*loc, "set"), error.problems[0].split(": ", 1)[-1])


def parts(document: Document, found: Problems) -> Iterator[Part]:
    """Yield the recipe of every run of a comparison: arms, their settings, seeds."""
    seeds = _seeds(document, found)
    runs = 0
    for name, whole in arms(document, found):
        grid = _grid(document, name, found)
        runs += len(seeds) * prod(map(len, grid.values()))
        if runs > _RUNS:
            sentence = f"compare: more than {_RUNS:,} runs of arms, settings and seeds."
            found.add(document, ("compare",), sentence)
            return
        for picks in product(*(range(len(values)) for values in grid.values())):
            try:
                part, setting = _set(document, whole, name, grid, picks)
            except ConfigError as error:
                sentence = error.problems[0].split(": ", 1)[-1]
                found.add(document, ("compare", name, "grid"), sentence)
                continue
            for i, seed in enumerate(seeds):
                one = part
                if seed is not None:
                    one = override(part, "seed", seed, document.origin(("seeds", i)))
                yield Part(name, setting, seed, one)


def _seeds(document: Document, found: Problems) -> list[int | None]:
    if "seeds" not in document.data:
        return [None]
    seeds = document.data["seeds"]
    if not isinstance(seeds, list) or not seeds:
        found.add(document, ("seeds",), "seeds: name at least one, as seeds: [0, 1, 2].")
        return [None]
    if twice := [seed for i, seed in enumerate(seeds) if seed in seeds[:i]]:
        found.add(document, ("seeds",), f"seeds names {twice[0]!r} twice.")
        return [None]
    return list(seeds)


def _grid(document: Document, name: str, found: Problems) -> dict[str, list[Any]]:
    grid: dict[str, list[Any]] = document.at(("compare", name, "grid")) or {}
    for key, values in grid.items():
        if not values:
            loc: Loc = ("compare", name, "grid", key)
            found.add(document, loc, f"{dotted(loc[:3])}: {key} has no values to choose from.")
    return grid


def _set(
    document: Document, whole: Document, name: str, grid: dict[str, list[Any]], picks: Any
) -> tuple[Document, dict[str, Any]]:
    """Return an arm's recipe with one choice from its grid, and the choice."""
    setting = {}
    for (key, values), pick in zip(grid.items(), picks, strict=True):
        setting[key] = values[pick]
        where = document.origin(("compare", name, "grid", key, pick))
        whole = override(whole, key, values[pick], where)
    return whole, setting


def _arm(document: Document, name: str, arm: Arm) -> Document:
    part = _without(document)
    data = {**part.data, "methods": [dict(method) for method in arm.methods]}
    prefix: Loc = ("compare", name, "methods")
    origins = dict(document.origins)
    for loc, origin in document.origins.items():
        if loc[:3] == prefix:
            origins["methods", *loc[3:]] = origin._replace(shown_as=dotted(loc))
    part = Document(document.file, data, origins)
    for key, value in arm.set.items():
        part = override(part, key, value, document.origin(("compare", name, "set", key)))
    return part


def _without(document: Document) -> Document:
    """Return the document without what says what is compared."""
    data = {k: v for k, v in document.data.items() if k not in sections()}
    return Document(document.file, data, document.origins)


def compares(document: Document) -> str:
    """Return what a recipe asks for that only a comparison does, or an empty string."""
    if "seeds" in document.data:
        return "seeds"
    compare = document.data.get("compare")
    for name, arm in compare.items() if isinstance(compare, dict) else ():
        if isinstance(arm, dict) and arm.get("grid"):
            return f"compare.{name}.grid"
    return ""
