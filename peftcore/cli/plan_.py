"""``peftcore plan SOURCE``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peftcore.cli import _completion
from peftcore.cli._tables import print_json
from peftcore.errors import ConfigError, nearest
from peftcore.plugins import registry

if TYPE_CHECKING:
    from torch import nn

    from peftcore.planning import Plan

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


@click.command("plan")
@click.argument("source", shell_complete=_completion.models)
@click.option(
    "-m", "--method", "methods", multiple=True, shell_complete=_completion.methods,
    help="Method; may be given repeatedly.",
)  # fmt: skip
@click.option(
    "-s", "--set", "settings", multiple=True, metavar="KEY=VALUE",
    help="Field of the method, as YAML: rank=8, or lora.rank=8 where there are several. Of a"
    " recipe: methods[0].rank=8.",
)  # fmt: skip
@click.option("--head", help="Head of the model, such as sequence-classification.")
@click.option(
    "--num-labels", type=click.IntRange(min=1), help="Number of labels of a classification head."
)
@click.option("--modules-to-save", multiple=True, help="Role or path glob trained whole.")
@click.option(
    "--convention", type=click.Choice(["of_total", "of_base", "of_blocks"]), default="of_total",
    help="What the percentage is a share of.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(list(_BYTES)), default="float32", help="Of the base.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(
    source: str, methods: tuple[str, ...], settings: tuple[str, ...], head: str | None,
    num_labels: int | None, modules_to_save: tuple[str, ...], convention: str, dtype: str,
    as_json: bool,
) -> None:  # fmt: skip
    """Count what an adapter would train: sites, parameters, memory; no weights are loaded.

    SOURCE is a named size (llama-7b), a folder or named source of weights, or a recipe (.yaml).
    """
    if source.endswith((".yaml", ".yml")):
        if methods:
            raise ConfigError(f"{source} names the methods; change them with --set instead.")
        wanted = _from_recipe(source, settings, modules_to_save)
    else:
        wanted = [_Wanted("", source, None, _chosen(methods, settings), modules_to_save)]
    from peftcore.planning import plan

    options = {} if num_labels is None else {"num_labels": num_labels}
    made = {}
    for one in wanted:
        model = _on_meta(one.source, one.backbone, head, options)
        made[one.arm] = plan(
            model, one.methods, backbone=one.backbone, modules_to_save=one.modules_to_save
        )
    _write(made, convention, dtype, as_json)


def _write(made: Mapping[str, Plan], convention: str, dtype: str, as_json: bool) -> None:
    if as_json:
        data = {arm: _as_data(plan, _BYTES[dtype]) for arm, plan in made.items()}
        print_json(data.get("", {"arms": data}))
        return
    for arm, plan in made.items():
        if arm:
            click.echo(f"{arm}:")
        click.echo(plan.table(convention))
        memory = _memory(plan, _BYTES[dtype])
        click.echo(
            f"memory: base {_gb(memory['base'])} in {dtype}, trained tensors with gradients and"
            f" AdamW {_gb(memory['trained'])}; activations come on top"
        )


@dataclass(frozen=True)
class _Wanted:
    """One adapter to plan; ``arm`` is its name under ``compare`` of a recipe."""

    arm: str
    source: str
    backbone: str | None
    methods: list[dict[str, Any]]
    modules_to_save: tuple[str, ...]


def _from_recipe(
    file: str, settings: tuple[str, ...], modules_to_save: tuple[str, ...]
) -> list[_Wanted]:
    from peftcore import recipes

    found = recipes.Problems()
    wanted = []
    _check_sections(file, recipes.read(file).data, settings)
    for arm, document in recipes.arms(recipes.read(file, settings), found):
        recipe = recipes.checked(document, recipes.Recipe, found)
        recipes.check_methods(document, found)
        if recipe is not None:
            saved = modules_to_save or recipe.modules_to_save or ()
            base = recipe.backbone
            wanted.append(_Wanted(arm, base.source, base.name, list(recipe.methods), saved))
    found.raise_any()
    return wanted


def _check_sections(file: str, sections: Mapping[str, Any], settings: tuple[str, ...]) -> None:
    """Refuse a setting of a section that nothing would read: ``rank=8`` without its method."""
    from peftcore.recipes import Recipe

    known = {*Recipe.model_fields, *sections}
    for setting in settings:
        section = re.split(r"[.\[=]", setting)[0]
        if section not in known:
            raise ConfigError(
                f"--set {setting}: {file} has no section {section!r}.{nearest(section, known)}"
                f" A method's field is set as methods[0].{setting}."
            )


def _chosen(methods: tuple[str, ...], settings: tuple[str, ...]) -> list[dict[str, Any]]:
    from peftcore import _yaml

    if not methods:
        raise ConfigError("name a method: peftcore plan llama-7b --method lora --set rank=8")
    for name in methods:
        registry().find("methods", name)
    chosen: list[dict[str, Any]] = [{"method": name} for name in methods]
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as rank=8.")
        value, _ = _yaml.read(text, f"--set {key}")
        hits = [c for c in chosen if key.startswith(f"{c['method']}.")]
        if not hits and len(chosen) > 1:
            raise ConfigError(
                f"--set {setting}: say of which method, such as {methods[0]}.{setting}."
            )
        for choice in hits or chosen:
            field = key.removeprefix(f"{choice['method']}.") if hits else key
            if field == "method":
                raise ConfigError(f"--set {setting}: name the method with --method.")
            _put(choice, field.split("."), value)
    return chosen


def _put(place: dict[str, Any], path: list[str], value: Any) -> None:
    for part in path[:-1]:
        inner = place.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"--set {'.'.join(path)}: {part} is given as {inner!r} already.")
        place = inner
    place[path[-1]] = value


def _on_meta(source: str, name: str | None, head: str | None, options: dict[str, Any]) -> nn.Module:
    import torch

    from peftcore.backbones import backbone_for_config, backbone_for_source

    sizes = {config for spec in registry().backbones.values() for config in spec.configs}
    looks_like_a_place = Path(source).exists() or "/" in source
    if source in sizes or not looks_like_a_place:
        knows = backbone_for_config(source)
    else:
        knows = backbone_for_source(source, name)
    with torch.device("meta"):
        return knows.build(source, head=head or knows.default_head, **options)


def _memory(made: Plan, width: int) -> dict[str, int]:
    # a trained tensor costs its value, its gradient and two moments, fp32 each
    trained = 16 * (made.trainable + made.head)
    return {"base": width * made.base, "trained": trained}


def _as_data(made: Plan, width: int) -> dict[str, Any]:
    shares = {c: made.percent(c) for c in ("of_total", "of_base", "of_blocks")}
    return {
        "trainable": made.trainable,
        "head": made.head,
        "base": made.base,
        "percent": {c: share if share == share else None for c, share in shares.items()},
        "rows": [
            dict(zip(("method", "role", "sites", "trainable"), r, strict=True)) for r in made.rows
        ],
        "bytes": _memory(made, width),
    }


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
