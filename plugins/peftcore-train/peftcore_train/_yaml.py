"""YAML with line marks: the scalars of YAML 1.2, so that `1e-3` is a number and `no` is a word."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml

from peftcore import ConfigError

Loc = tuple[str | int, ...]


class Origin(NamedTuple):
    """Where a part of a recipe stands.

    Attributes:
        shown: ``recipe.yaml:12``, or the option that set it.
        order: for sorting.
        shown_as: path for messages, where the part was moved.
    """

    shown: str
    order: int
    shown_as: str = ""


#: What a recipe may hold: characters, values once aliases are spelled out, levels, digits.
_CHARACTERS, _VALUES, _LEVELS, _DIGITS = 2**20, 20_000, 32, 100
#: The parser in C, where PyYAML was built with it, takes a tenth of the time.
_Safe: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_INT = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)"
    r"|\.(?:nan|NaN|NAN)"
)
_WORDS = {"true": True, "false": False, "null": None, "~": None, "": None}
_TAGS = {
    "tag:yaml.org,2002:bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "tag:yaml.org,2002:null": re.compile(r"null|Null|NULL|~|"),
    "tag:yaml.org,2002:int": _INT,
    "tag:yaml.org,2002:float": _FLOAT,
}


class _Loader(_Safe):  # type: ignore[misc]
    """Resolves the scalars of YAML 1.2's core schema; dates and `yes` stay text."""

    yaml_implicit_resolvers: dict[Any, Any] = {}


class _Dumper(yaml.SafeDumper):
    """Writes what the loader reads."""

    yaml_implicit_resolvers: dict[Any, Any] = {}

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _class in (_Loader, _Dumper):
    for _tag, _pattern in _TAGS.items():
        _class.add_implicit_resolver(_tag, re.compile(f"(?:{_pattern.pattern})$"), None)


def read(text: str, file: str) -> tuple[Any, dict[Loc, Origin]]:
    """Read YAML into plain data and the place of each part.

    Raises:
        ConfigError: not YAML, a key given twice, a tag, a value that holds itself, or more than a
            recipe may hold.
    """
    if len(text) > _CHARACTERS:
        raise ConfigError(
            f"{file}: {len(text):,} characters; a recipe has at most {_CHARACTERS:,}."
        )
    try:
        _check_size(text, file)
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise ConfigError(f"{file}:{line}: not readable as YAML: {error.problem}.") from None
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{file}: not readable as YAML: {reason}.") from None
    origins: dict[Loc, Origin] = {}
    return (None if node is None else _build(node, file, (), origins, ())), origins


def _check_size(text: str, file: str) -> None:
    """Raise ConfigError for more values or levels than building them should meet."""
    values = level = 0
    for event in yaml.parse(text, _Loader):
        values += isinstance(event, yaml.NodeEvent)
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        _check_bounds(values, level, f"{file}:{event.start_mark.line + 1}")


def _check_bounds(values: int, level: int, where: str) -> None:
    if level > _LEVELS:
        raise ConfigError(f"{where}: more than {_LEVELS} levels, one inside another.")
    if values > _VALUES:
        raise ConfigError(f"{where}: more than {_VALUES:,} values, those of aliases among them.")


def _build(
    node: yaml.Node, file: str, loc: Loc, origins: dict[Loc, Origin], above: tuple[int, ...]
) -> Any:
    line = node.start_mark.line + 1
    origins.setdefault(loc, Origin(f"{file}:{line}", line))
    if id(node) in above:
        raise ConfigError(f"{file}:{line}: this value holds itself.")
    _check_bounds(len(origins), len(above), f"{file}:{line}")
    above = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        return [_build(n, file, (*loc, i), origins, above) for i, n in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, file, loc, origins, above)
    return _scalar(node, f"{file}:{line}")


def _mapping(
    node: yaml.MappingNode, file: str, loc: Loc, origins: dict[Loc, Origin], above: tuple[int, ...]
) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{file}:{line}: a key is a word, not a list or mapping.")
        key = key_node.value
        if key in out:
            before = origins[(*loc, key)].shown
            raise ConfigError(f"{file}:{line}: {key} is given twice, first at {before}.")
        origins[(*loc, key)] = Origin(f"{file}:{line}", line)
        out[key] = _build(value_node, file, (*loc, key), origins, above)
    return out


def _scalar(node: yaml.Node, where: str) -> Any:
    tag, text = node.tag, node.value
    if tag == "tag:yaml.org,2002:str":
        return text
    if tag not in _TAGS:
        raise ConfigError(f"{where}: tag {tag} is not allowed.")
    if not _TAGS[tag].fullmatch(text):
        raise ConfigError(f"{where}: {text!r} is not a {tag.rpartition(':')[2]}.")
    if tag.endswith("int"):
        if len(text) > _DIGITS:
            raise ConfigError(f"{where}: an integer of {len(text):,} digits.")
        return int(text)
    if tag.endswith("float"):
        return float(re.sub(r"\.(?=[a-z])", "", text.lower()))
    return _WORDS[text.lower()]


def dump(data: Any) -> str:
    """Write plain data as YAML."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
