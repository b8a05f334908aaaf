"""``peftcore plan SOURCE``, and how a plan is shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import click

from peftcore.cli import _completion
from peftcore.cli._tables import amount, print_json
from peftcore.errors import ConfigError, UnknownName
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve

if TYPE_CHECKING:
    from torch import nn

    from peftcore.adapter.plan import Plan

_DTYPES = ("float32", "bfloat16", "float16")


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
@click.option(
    "--head", help="Head of the model, or the task whose head it is: sequence-classification."
)
@click.option(
    "--num-labels", type=click.IntRange(min=1), help="Number of labels of a classification head."
)
@click.option("--modules-to-save", multiple=True, help="Role or path glob trained whole.")
@click.option(
    "--convention", type=click.Choice(["of_total", "of_base", "of_blocks"]), default="of_total",
    help="What the percentage is a share of.",
)  # fmt: skip
@click.option("--dtype", type=click.Choice(_DTYPES), help="Of the base; its own by default.")
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def command(
    source: str, methods: tuple[str, ...], settings: tuple[str, ...], head: str | None,
    num_labels: int | None, modules_to_save: tuple[str, ...], convention: str, dtype: str | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Count what an adapter would train: sites, parameters, memory; no weights are read.

    SOURCE is a named size (llama-7b), a folder or named source of weights, or a recipe (.yaml)
    that could be trained: a plan of it is what `peftcore train --dry-run` shows.
    """
    if Path(source).suffix in (".yaml", ".yml"):
        given = {
            "--method": methods, "--head": head, "--num-labels": num_labels,
            "--modules-to-save": modules_to_save, "--dtype": dtype,
        }  # fmt: skip
        for option in (name for name, value in given.items() if value):
            raise ConfigError(
                f"{source} says what {option} would; leave it out, and change the recipe with"
                " --set."
            )
        made = _from_file(source, settings)
    else:
        from peftcore.adapter.plan import plan

        chosen = _chosen(methods, settings)
        options = {"num_labels": num_labels, "dtype": dtype}
        model = _on_meta(source, head, {k: v for k, v in options.items() if v is not None})
        made = {"": plan(model, chosen, modules_to_save=modules_to_save)}
    print_plans(made, convention=convention, as_json=as_json)


def print_plans(
    plans: Mapping[str, Plan],
    *,
    convention: str = "of_total",
    as_json: bool = False,
    besides: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Print plans on stdout as ``peftcore plan`` does: counts, and memory besides activations.

    Args:
        plans: by the name of the arm; one without a name stands alone.
        convention: of the percentage, see :meth:`peftcore.Plan.percent`.
        as_json: print JSON, with every percentage.
        besides: what else to say of each arm, by name.
    """
    if as_json:
        data = {arm: {**_as_data(plan), **besides.get(arm, {})} for arm, plan in plans.items()}
        print_json(data.get("", {"arms": data}))
        return
    for arm, plan in plans.items():
        if arm:
            click.echo(f"{arm}:")
        click.echo(plan.table(convention))
        held = _memory(plan)
        dtypes = " and ".join(sorted({str(p.dtype).removeprefix("torch.") for p in _base(plan)}))
        click.echo(
            f"memory: base {amount(held['base'])} in {dtypes}, trained tensors with gradients and"
            f" AdamW {amount(held['trained'])}; activations come on top"
        )
        for name, value in besides.get(arm, {}).items():
            click.echo(f"{name.replace('_', ' ')}: {_in_words(value)}")


def _in_words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{count} {name}" for name, count in value.items())
    return str(value)


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

    from peftcore.model.backbones import backbone_for_plan

    task = installed().tasks.get(head or "")
    if task is not None and task.model:
        model: nn.Module = resolve(task.model)(head, source, options)
        return model
    knows = backbone_for_plan(source)
    with torch.device("meta"):
        return knows.build(source, head=head or knows.default_head, **options)


def _base(made: Plan) -> list[nn.Parameter]:
    assert made.survey is not None  # of a plan that has not been carried out
    return [info.parameter for info in made.survey.parameters]


def _memory(made: Plan) -> dict[str, int]:
    """Return the bytes of the base, and those of what is trained."""
    base = sum(p.numel() * p.element_size() for p in _base(made))
    # a trained tensor costs its value, its gradient and two moments, fp32 each
    return {"base": base, "trained": 16 * (made.trainable + made.head)}


def _as_data(made: Plan) -> dict[str, Any]:
    shares = {c: made.percent(c) for c in ("of_total", "of_base", "of_blocks")}
    return {
        "trainable": made.trainable,
        "head": made.head,
        "base": made.base,
        "percent": {c: share if share == share else None for c, share in shares.items()},
        "reachable": made.survey.reachable,
        "without_role": made.survey.without_role,
        "lines": [line._asdict() for line in made.lines],
        "bytes": _memory(made),
    }
