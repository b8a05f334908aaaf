"""Short forms of recipes: a method's name alone, and an arm that is a list."""

from typing import Any

from peftcore_train._yaml import Loc, Origin


def spelled(
    document: dict[str, Any], origins: dict[Loc, Origin]
) -> tuple[dict[str, Any], dict[Loc, Origin]]:
    """Return the data of a recipe with its short forms spelled out, and where its parts stand."""
    data = dict(document)
    if isinstance(data.get("methods"), list):
        data["methods"] = _spelled(data["methods"])
    if isinstance(data.get("compare"), dict):
        data["compare"], origins = _spelled_arms(data["compare"], origins)
    return data, origins


def _spelled(methods: list[Any]) -> list[Any]:
    return [{"method": m} if isinstance(m, str) else m for m in methods]


def _spelled_arms(
    compare: dict[str, Any], origins: dict[Loc, Origin]
) -> tuple[dict[str, Any], dict[Loc, Origin]]:
    out: dict[str, Any] = {}
    short = {("compare", name) for name, value in compare.items() if isinstance(value, list)}
    moved = {
        (*loc[:2], "methods", *loc[2:]) if loc[:2] in short and len(loc) > 2 else loc: origin
        for loc, origin in origins.items()
    }
    for name, value in compare.items():
        arm = {"methods": value} if isinstance(value, list) else value
        if isinstance(arm, dict) and isinstance(arm.get("methods"), list):
            arm = {**arm, "methods": _spelled(arm["methods"])}
        out[name] = arm
    return out, moved
