"""Recipes: YAML read with line marks, overrides, and errors that name the line.

Imports no torch. The core knows the sections of :class:`Recipe`; a plugin that runs recipes
subclasses it with sections of its own and passes its class to :func:`checked`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field, ValidationError, field_validator
from yaml import YAMLError

from peftcore import (
    ConfigError,
    PeftcoreError,
    Strict,
    UnknownName,
    installed,
    nearest,
    problems,
    resolve,
)
from peftcore_train import _yaml
from peftcore_train._short_forms import spelled
from peftcore_train._yaml import Loc as Loc, Origin as Origin
from peftcore_train.paths import PathText

M = TypeVar("M", bound=BaseModel)

#: Types of errors by which strict validation refuses a scalar that lax validation converts.
_SCALAR_ERRORS = ("int_type", "float_type", "bool_type", "string_type")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
#: Words of pydantic for what YAML calls otherwise.
_WORDS = {
    "a valid tuple": "a list",
    "tuple should": "list should",
    "a valid dictionary": "a mapping",
    "an object": "a mapping",
}
#: Methods of one recipe.
METHODS = 32
#: Problems that are shown at once.
_SHOWN = 20
_STEP = re.compile(r"([^.\[\]=]+)|\[(\d+)\]")


class BackboneSection(Strict):
    """The pretrained model to tune."""

    source: PathText = Field(
        description="A folder, a name that the family's `from_pretrained` takes, or a named"
        " source such as `samples/minilm`.",
    )
    name: str | None = Field(
        None, description="Backbone plugin; found from the checkpoint where it is not given."
    )
    options: dict[str, Any] = Field(
        {}, description="Further arguments for loading, such as `dtype: bfloat16`."
    )


class Recipe(Strict):
    """What the core knows of a recipe; sections of plugins are left to them."""

    model_config = {"extra": "ignore"}

    name: str = Field(description="Name of the run: letters, digits, - and _.")
    seed: int = Field(0, ge=0, lt=2**32, description="Seed of everything random.")
    backbone: BackboneSection = Field(description="The pretrained model to tune.")
    methods: tuple[dict[str, Any], ...] = Field(
        max_length=METHODS,
        description="Methods with their configuration: `{method: lora, rank: 8}` or `lora`."
        " An empty list trains the head alone.",
    )
    modules_to_save: tuple[str, ...] | None = Field(
        None,
        description="Roles or path globs of base modules trained in full and stored with the"
        " adapter. Default: what the task says, and what the checkpoint did not hold.",
    )

    @field_validator("name")
    @classmethod
    def _can_name_a_folder(cls, name: str) -> str:
        if not NAME.fullmatch(name):
            raise ValueError("use letters, digits, - and _ only")
        if len(name) > 200:
            raise ValueError("use at most 200 letters")
        return name


@dataclass(frozen=True)
class Document:
    """A recipe as it was read: plain data, and where each part of it stands.

    Attributes:
        file: the file as the user named it.
        data: mappings, lists and scalars.
        origins: location in the data to its place in the file.
    """

    file: str
    data: dict[str, Any]
    origins: dict[Loc, Origin]

    def origin(self, loc: Loc) -> Origin:
        """Return the place of a location, or of the nearest part that encloses it."""
        while loc and loc not in self.origins:
            loc = loc[:-1]
        return self.origins.get(loc, Origin(f"{self.file}:1", 1))

    def at(self, loc: Loc) -> Any:
        """Return the data at a location, or None."""
        value: Any = self.data
        for part in loc:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value


@dataclass
class Problems:
    """Everything that is wrong with a recipe, reported at once and sorted by line."""

    _found: dict[str, tuple[int, type[PeftcoreError]]] = field(default_factory=dict)

    def add(
        self, document: Document, loc: Loc, sentence: str, kind: type[PeftcoreError] = ConfigError
    ) -> None:
        """Note a problem at a location; the same problem counts once."""
        origin = document.origin(loc)
        self._found.setdefault(f"{origin.shown}: {sentence}", (origin.order, kind))

    def __bool__(self) -> bool:
        return bool(self._found)

    def raise_any(self) -> None:
        """Raise all problems as one error; UnknownName if a name of a plugin is among them."""
        if not self._found:
            return
        lines = [text for text, _ in sorted(self._found.items(), key=lambda item: item[1][0])]
        if len(lines) > _SHOWN:
            lines[_SHOWN:] = [f"... and {len(lines) - _SHOWN} more."]
        missing = any(issubclass(kind, UnknownName) for _, kind in self._found.values())
        raise (UnknownName if missing else ConfigError)(lines)


def read(path: str | Path, overrides: Sequence[str] = ()) -> Document:
    """Read a recipe and apply overrides such as ``methods[0].rank=16``.

    Raises:
        ConfigError: the file is missing, not UTF-8, not YAML, or an override does not fit.
    """
    file = Path(path)
    if file.is_dir():
        raise ConfigError(f"{path}: a folder, not a recipe.")
    if not file.is_file():
        near = [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        raise ConfigError(f"{path}: no such file.{nearest(file.name, near)}")
    try:
        text = file.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 (byte {error.start}).") from None
    data, origins = _yaml.read(text, str(path))
    if data is None:
        raise ConfigError(f"{path}: the recipe is empty.")
    if not isinstance(data, dict):
        raise ConfigError(
            f"{path}:1: a recipe is a mapping of sections, not {type(data).__name__}."
        )
    return changed(_normal(Document(str(path), data, origins)), overrides)


def changed(document: Document, overrides: Sequence[str]) -> Document:
    """Return the document with overrides applied, such as ``methods[0].rank=16``.

    Raises:
        ConfigError: an override does not fit.
    """
    for text in overrides:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text}: write KEY=VALUE, such as methods[0].rank=16.")
        parsed, _ = _yaml.read(value, f"--set {key}")
        document = override(document, key, parsed, Origin(f"--set {text}", 1 << 30))
    return document


def from_data(data: Mapping[str, Any]) -> Document:
    """Return a recipe that is a mapping already, as a program has it.

    Raises:
        ConfigError: it holds something that is no mapping, list, text, number or truth value.
    """
    where = "the recipe"
    try:
        found, _ = _yaml.read(_yaml.dump(dict(data)), where)
    except YAMLError as error:
        raise ConfigError(f"{where}: {error.args[-1]!r} cannot be written as YAML.") from error
    return _normal(Document(where, found, {(): Origin(where, 1)}))


def override(document: Document, key: str, value: Any, origin: Origin) -> Document:
    """Return the document with one value changed; a missing mapping on the way is made.

    Raises:
        ConfigError: the key is not readable, or a part on its way is no mapping or list.
    """
    loc = _parse_key(key, origin)
    data = deepcopy(document.data)
    place: Any = data
    for i, part in enumerate(loc):
        if not _has_place(place, part):
            what = f"has {len(place)} items" if isinstance(place, list) else f"is {place!r}"
            raise ConfigError(f"{origin.shown}: {dotted(loc[:i]) or 'the recipe'} {what}.")
        last = i == len(loc) - 1
        if last or (isinstance(part, str) and place.get(part) is None):
            place[part] = value if last else {}
        place = place[part]
    kept = {k: v for k, v in document.origins.items() if k[: len(loc)] != loc}
    return _normal(Document(document.file, data, {**kept, loc: origin}))


def check_single(document: Document, what: str) -> None:
    """Check that a recipe has no arms and no seeds to compare.

    Args:
        document: the recipe.
        what: what takes one setting and one seed.

    Raises:
        ConfigError: it has.
    """
    for name in ("compare", "seeds"):
        if name in document.data:
            raise ConfigError(
                f"{document.file}: {what} takes methods and one seed; leave {name} out."
            )


def parted(document: Document, name: str, model: type[M]) -> tuple[Document, M]:
    """Return a recipe without one of its sections, and the section; its defaults if it has none.

    Raises:
        ConfigError: a field of the section does not fit.
    """
    data = {key: value for key, value in document.data.items() if key != name}
    bare = Document(document.file, data, document.origins)
    if document.data.get(name) is None:
        return bare, model()
    found = Problems()
    section = checked(document, model, found, loc=(name,), label=name)
    found.raise_any()
    assert section is not None
    return bare, section


def checked(
    document: Document,
    model: type[M],
    found: Problems,
    *,
    loc: Loc = (),
    label: str = "the recipe",
    without: Sequence[str] = (),
) -> M | None:
    """Validate one part of a document; note its problems and return None if there are any.

    Numbers and truth values are not converted: ``rank: "8"`` and ``rank: true`` are problems.

    Args:
        document: the recipe.
        model: pydantic model of the part.
        found: where problems are noted.
        loc: where the part stands.
        label: whose fields these are, for the message.
        without: keys that are not the model's, such as ``method``.
    """
    data = document.at(loc)
    if isinstance(data, dict):
        data = {k: v for k, v in data.items() if k not in without}
    where = document.origin(loc).shown_as or dotted(loc)
    sentences: dict[Loc, str] = {}
    made = None
    try:
        made = model.model_validate(data)
    except ValidationError as error:
        sentences.update(problems(error, model, where, label))
    for at, sentence in _converted(document, loc, model, data, where, label):
        sentences.setdefault(at, sentence)
    for at, sentence in sentences.items():
        for word, plain in _WORDS.items():
            sentence = sentence.replace(word, plain)
        found.add(document, (*loc, *at), sentence)
    return None if sentences else made


def _converted(
    document: Document, loc: Loc, model: type[BaseModel], data: Any, where: str, label: str
) -> Iterator[tuple[Loc, str]]:
    try:
        model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        scalars = [e for e in error.errors() if e["type"] in _SCALAR_ERRORS]
        kept = {tuple(e["loc"]) for e in scalars}
        for at, sentence in problems(error, model, where, label):
            value = document.at((*loc, *at))
            near = any(k[: len(at)] == at for k in kept)
            if near and value is not None and not isinstance(value, dict | list):
                yield at, sentence


def check_methods(document: Document, found: Problems) -> None:
    """Validate the configuration of each method against its plugin's class."""
    methods = document.data.get("methods")
    if not isinstance(methods, list):
        return
    for i, choice in enumerate(methods[:METHODS]):
        loc: Loc = ("methods", i)
        if not isinstance(choice, dict):
            continue
        name = choice.get("method")
        if not isinstance(name, str):
            sentence = "names no method: write {method: lora, rank: 8}."
            found.add(document, loc, f"{document.origin(loc).shown_as or dotted(loc)} {sentence}")
            continue
        try:
            config = resolve(installed().find("methods", name).config)
        except PeftcoreError as error:
            found.add(document, (*loc, "method"), str(error), type(error))
            continue
        checked(document, config, found, loc=loc, label=name, without=("method",))


def dump(data: Any) -> str:
    """Write plain data as YAML that :func:`read` reads back as the same data."""
    return _yaml.dump(data)


def dotted(loc: Loc) -> str:
    """Return a location as users write it: ``methods[0].rank``."""
    out = ""
    for part in loc:
        out += f"[{part}]" if isinstance(part, int) else f".{part}" if out else part
    return out


def _has_place(place: object, part: str | int) -> bool:
    if isinstance(part, int):
        return isinstance(place, list) and part < len(place)
    return isinstance(place, dict)


def _parse_key(key: str, origin: Origin) -> Loc:
    parts = [int(m[2]) if m[2] else m[1] for m in _STEP.finditer(key)]
    if not parts or dotted(tuple(parts)) != key:
        raise ConfigError(f"{origin.shown}: {key!r} is no key; write it as methods[0].rank.")
    return tuple(parts)


def _normal(document: Document) -> Document:
    return Document(document.file, *spelled(document.data, document.origins))
