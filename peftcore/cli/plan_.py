"""``peftcore plan SOURCE``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peftcore.cli import _completion
from peftcore.cli._tables import print_json
from peftcore.errors import ConfigError, UnknownName
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve

if TYPE_CHECKING:
    from torch import nn

    from peftcore.adapter.plan import Plan

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
    if Path(source).suffix in (".yaml", ".yml"):
        _refuse(source, method=methods, head=head, num_labels=num_labels, modules=modules_to_save)
        made = _from_file(source, settings)
    else:
        from peftcore.adapter.plan import plan

        chosen = _chosen(methods, settings)
        options = {} if num_labels is None else {"num_labels": num_labels}
        model = _on_meta(source, head, options)
        made = {"": plan(model, chosen, modules_to_save=modules_to_save)}
    _write(made, convention, dtype, as_json)


def _refuse(file: str, **options: Any) -> None:
    """Refuse what the file itself says."""
    for name, value in options.items():
        if value:
            raise ConfigError(f"{file} says what --{name} would; change it with --set instead.")


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


def _from_file(file: str, settings: tuple[str, ...]) -> Mapping[str, Plan]:
    """Ask the command that works on such files, as that of recipes does."""
    for spec in installed().commands.values():
        if spec.plans and file.endswith(spec.reads):
            plans: Mapping[str, Plan] = resolve(spec.plans)(file, settings)
            return plans
    raise UnknownName(f"no installed plugin plans {file}: pip install peftcore-train")


def _chosen(methods: tuple[str, ...], settings: tuple[str, ...]) -> list[dict[str, Any]]:
    import yaml

    if not methods:
        raise ConfigError("name a method: peftcore plan llama-7b --method lora --set rank=8")
    for name in methods:
        installed().find("methods", name)
    chosen: list[dict[str, Any]] = [{"method": name} for name in methods]
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ConfigError(f"--set {setting}: write KEY=VALUE, such as rank=8.")
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            raise ConfigError(f"--set {setting}: {text!r} is not readable as YAML.") from None
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


def _on_meta(source: str, head: str | None, options: dict[str, Any]) -> nn.Module:
    import torch

    from peftcore.model.backbones import backbone_for_config, backbone_for_source

    sizes = {config for spec in installed().backbones.values() for config in spec.configs}
    looks_like_a_place = Path(source).exists() or "/" in source
    if source in sizes or not looks_like_a_place:
        knows = backbone_for_config(source)
    else:
        knows = backbone_for_source(source)
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
        "lines": [line._asdict() for line in made.lines],
        "bytes": _memory(made, width),
    }


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.2f} MB"
