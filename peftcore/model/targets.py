"""Targets, and settings that are given per role."""

import re
from collections.abc import Mapping
from functools import lru_cache
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
    def kind(self) -> str: ...  # noqa: D102
    @property
    def block(self) -> int | None: ...  # noqa: D102
    @property
    def blocks(self) -> int: ...  # noqa: D102


class _PerRole:
    """Marks a field whose value may be given per role."""


#: One value, or a mapping of role glob to value with ``default`` for the rest:
#: ``rank: 8`` or ``rank: {default: 8, "mlp.*": 4}``. Read with :meth:`Site.setting`.
PerRole = Annotated[Union[T, dict[str, T]], _PerRole()]  # noqa: UP007  (generic alias)


def per_role_fields(config: BaseModel) -> dict[str, dict[str, Any]]:
    """Return the fields that are given per role, with their mappings."""
    return {
        name: value
        for name, info in type(config).model_fields.items()
        if any(isinstance(m, _PerRole) for m in info.metadata)
        and isinstance(value := getattr(config, name), dict)
    }


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


def _matches_one(pattern: str, role: str, path: str, kind: str | None) -> bool:
    if role == "unused":
        return False
    if pattern.startswith("path:"):
        return path_matches(path, (pattern[5:],))
    if pattern == "all-linear":
        return kind == "linear" and role != "head" and not role.endswith(".qkv")
    return role_matches(role, pattern)


@lru_cache(maxsize=65536)
def _any_role_matches(patterns: tuple[str, ...], role: str, kind: str) -> bool:
    return any(_matches_one(p, role, "", kind) for p in patterns if not p.startswith("path:"))


def _any_matches(patterns: tuple[str, ...], role: str, path: str, kind: str) -> bool:
    return _any_role_matches(patterns, role, kind) or any(
        _matches_one(p, role, path, kind) for p in patterns if p.startswith("path:")
    )


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
            _parse_layers(value, None)
        return value

    def indices(self, count: int) -> tuple[int, ...]:
        """Return the chosen block indices of a model of ``count`` blocks.

        Raises:
            TargetError: a chosen block does not exist.
        """
        chosen = _parse_layers(self.layers, count) if isinstance(self.layers, str) else self.layers
        beyond = [i for i in chosen if not 0 <= i < count]
        if beyond:
            raise TargetError(
                f"layers {self.layers!r} names block {beyond[0]}, "
                f"but the model has {count} blocks (0 to {count - 1})."
            )
        return tuple(chosen)

    def match(self, site: Place) -> bool:
        """Tell whether a site or a parameter's module is targeted."""
        kind = site.kind
        if not _any_matches(self.roles, site.role, site.path, kind):
            return False
        if self.layers != "all" and site.block not in self.indices(site.blocks):
            return False
        return not (self.exclude and _any_matches(self.exclude, site.role, site.path, kind))


def _parse_layers(text: str, count: int | None) -> tuple[int, ...]:
    text = text.strip()
    if text == "all":
        return tuple(range(count or 0))
    if edge := re.fullmatch(r"(first|last) (\d+)", text):
        n = int(edge[2])
        if count is None:
            return ()
        return tuple(range(n) if edge[1] == "first" else range(count - n, count))
    indices: list[int] = []
    for part in re.split(r"[;,]", text):
        span = re.fullmatch(r"\s*(\d+)(?:\s*-\s*(\d+))?\s*", part)
        if span is None:
            raise ValueError(
                f"layers {text!r} is not readable; write all, 3;9;18, 25-32, first 4 or last 8"
            )
        indices.extend(range(int(span[1]), int(span[2] or span[1]) + 1))
    return tuple(indices)


def targets_of(config: BaseModel) -> dict[str, Targets]:
    """Return the fields of a configuration that are targets."""
    return {
        name: value
        for name in type(config).model_fields
        if isinstance(value := getattr(config, name), Targets)
    }
