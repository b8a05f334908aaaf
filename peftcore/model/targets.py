"""Targets, and settings that are given per role."""

import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Annotated, Any, Protocol, TypeVar, Union

from pydantic import BaseModel, Field, field_validator, model_validator

from peftcore.errors import ConfigError, TargetError
from peftcore.model.globs import path_matches, role_matches
from peftcore.schema import Strict

T = TypeVar("T")


class Place(Protocol):
    """What targets look at: a site, or a parameter with its module."""

    @property
    def role(self) -> str: ...  # noqa: D102
    @property
    def path(self) -> str: ...  # noqa: D102
    @property
    def own_path(self) -> str: ...  # noqa: D102
    @property
    def kind(self) -> str: ...  # noqa: D102
    @property
    def block(self) -> int | None: ...  # noqa: D102
    @property
    def blocks(self) -> int: ...  # noqa: D102
    @property
    def stack(self) -> str: ...  # noqa: D102
    @property
    def stack_blocks(self) -> tuple[int, int]: ...  # noqa: D102


class _PerRole:
    """Marks a field whose value may be given per role."""


#: One value, or a mapping of role glob to value with ``default`` for the rest:
#: ``rank: 8`` or ``rank: {default: 8, "mlp.*": 4}``. Read with :meth:`Site.setting`.
PerRole = Annotated[Union[T, dict[str, T]], _PerRole()]  # noqa: UP007  (generic alias)


def per_role_fields(config: BaseModel) -> dict[str, dict[str, Any]]:
    """Return the fields that are given per role, with their mappings."""
    values = config.__dict__  # a model's attributes are slow to get
    return {n: values[n] for n in _per_role_names(type(config)) if isinstance(values[n], dict)}


@cache
def _per_role_names(kind: type[BaseModel]) -> tuple[str, ...]:
    fields = kind.model_fields.items()
    return tuple(n for n, info in fields if any(isinstance(m, _PerRole) for m in info.metadata))


def setting_for(value: Any, role: str, path: str = "") -> Any:
    """Resolve a per-role value for one role; the first matching pattern wins."""
    if not isinstance(value, Mapping):
        return value
    for glob, chosen in value.items():
        if glob != "default" and _matches_one(glob, role, path, None):
            return chosen
    if "default" in value:
        return value["default"]
    raise ConfigError(
        f"no value for role {role}: give one for it or a default. Given: {', '.join(value)}"
    )


def with_role(given: Any, role: str, value: Any) -> str:
    """Return, as JSON, what was given for a field with another value for one role.

    Args:
        given: one value, or a mapping of role globs to values; what it says of other roles stays.
        role: the role.
        value: its value, which stands first since the first pattern that matches wins.

    Example:
        >>> with_role(8, "mlp.up", 4)
        '{"mlp.up": 4, "default": 8}'
    """
    rest = given if isinstance(given, Mapping) else {"default": given}
    return json.dumps({role: value, **{glob: v for glob, v in rest.items() if glob != role}})


def _matches_one(pattern: str, role: str, path: str, kind: str | None) -> bool:
    if role == "unused":
        return False
    if pattern.startswith("path:"):
        return path_matches(path, (pattern[5:],))
    if pattern == "all-linear":
        return kind == "linear" and role not in ("head", "router") and not role.endswith(".qkv")
    return role_matches(role, pattern)


@lru_cache(maxsize=65536)
def _any_role_matches(patterns: tuple[str, ...], role: str, kind: str) -> bool:
    return any(_matches_one(p, role, "", kind) for p in patterns if not p.startswith("path:"))


@lru_cache(maxsize=4096)
def _of_paths(patterns: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(p for p in patterns if p.startswith("path:"))


def _any_matches(patterns: tuple[str, ...], role: str, path: str, kind: str) -> bool:
    if _any_role_matches(patterns, role, kind):
        return True
    by_path = _of_paths(patterns)
    return bool(by_path) and any(_matches_one(p, role, path, kind) for p in by_path)


class Targets(Strict):
    """Where a method acts. A plain list stands for ``roles``.

    Example:
        >>> Targets.model_validate(["attention.query", "mlp.*"]).roles
        ('attention.query', 'mlp.*')
        >>> Targets(roles=["attention.*"], layers="25-27").indices(33)
        (25, 26, 27)
    """

    roles: tuple[str, ...] = Field(
        min_length=1,
        description="Role globs (`attention.*`), path globs (`path:layers.*.q`), or `all-linear`.",
    )
    layers: str | tuple[int, ...] = Field(
        "all",
        description="Blocks, from 0: `all`, `3;9;18`, `25-32`, `first 4`, `last 8`, or a list.",
    )
    exclude: tuple[str, ...] = Field((), description="Role or path globs to leave out.")
    stack: str | None = Field(
        None,
        description="Of a model of several stacks, such as `encoder` and `decoder` or `vision` and"
        " `language`, the one meant; `layers` counts its blocks then.",
    )

    @model_validator(mode="before")
    @classmethod
    def _from_list(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"roles": (value,)}
        return {"roles": tuple(value)} if isinstance(value, list | tuple) else value

    @field_validator("roles", "exclude", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("layers")
    @classmethod
    def _readable(cls, value: str | tuple[int, ...]) -> str | tuple[int, ...]:
        if isinstance(value, str):
            _spans(value, 0)
        return value

    def indices(self, count: int) -> tuple[int, ...]:
        """Return the chosen block indices of a model, or of the stack, of ``count`` blocks.

        Raises:
            TargetError: a chosen block does not exist.
        """
        return _indices(
            self.layers, count, f"the stack {self.stack}" if self.stack else "the model"
        )

    def _chooses_block(self, site: Place) -> bool:
        if site.block is None:
            return False
        if self.stack is None:
            return site.block in self.indices(site.blocks)
        first, stop = site.stack_blocks
        return site.block - first in self.indices(stop - first)

    def match(self, site: Place) -> bool:
        """Tell whether a site or a parameter's module is targeted."""
        if not self._any(self.roles, site):
            return False
        if self.stack is not None and site.stack != self.stack:
            return False
        if self.layers != "all" and not self._chooses_block(site):
            return False
        return not (self.exclude and self._any(self.exclude, site))

    @staticmethod
    def _any(patterns: tuple[str, ...], site: Place) -> bool:
        path, own = site.path, site.own_path
        if _any_matches(patterns, site.role, path, site.kind):
            return True
        return own != path and _any_matches(patterns, site.role, own, site.kind)


@lru_cache(maxsize=1024)
def _indices(layers: str | tuple[int, ...], count: int, whole: str) -> tuple[int, ...]:
    spans = _spans(layers, count) if isinstance(layers, str) else [range(i, i + 1) for i in layers]
    for span in spans:
        if span and not 0 <= span[0] <= span[-1] < count:
            beyond = span[0] if not 0 <= span[0] < count else span[-1]
            raise TargetError(
                f"layers {layers!r} names block {beyond}, "
                f"but {whole} has {count} blocks (0 to {count - 1})."
            )
    return tuple(i for span in spans for i in span)


def _spans(text: str, count: int) -> list[range]:
    """Return the blocks that a text names; ranges, because a text may name a million of them."""
    text = text.strip()
    if text == "all":
        return [range(count)]
    if edge := re.fullmatch(r"(first|last) (\d{1,9})", text):
        n = int(edge[2])
        return [range(n) if edge[1] == "first" else range(count - n, count)]
    found = []
    for part in re.split(r"[;,]", text):
        span = re.fullmatch(r"\s*(\d{1,9})(?:\s*-\s*(\d{1,9}))?\s*", part)
        if span is None:
            raise ValueError(
                f"layers {text!r} is not readable; write all, 3;9;18, 25-32, first 4 or last 8"
            )
        found.append(range(int(span[1]), int(span[2] or span[1]) + 1))
    return found


def targets_of(config: BaseModel) -> dict[str, Targets]:
    """Return the fields of a configuration that are targets."""
    return {
        name: value
        for name in type(config).model_fields
        if isinstance(value := getattr(config, name), Targets)
    }
