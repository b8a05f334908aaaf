"""``peftcore merge ADAPTER OUTPUT``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peftcore.errors import ConfigError
from peftcore.registry.installed import installed
from peftcore.registry.references import resolve

if TYPE_CHECKING:
    from peftcore.model.loaded import Loaded


@click.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--source", help="Folder or name of the base's weights; a training run knows its own."
)
@click.option("--head", help="Head of the model, such as causal-lm; a training run knows its own.")
@click.option(
    "--num-labels", type=click.IntRange(min=1),
    help="Number of labels of a classification head; a training run knows its own.",
)  # fmt: skip
@click.option("--allow-other-base", is_flag=True, help="Accept a base with other weights.")
def command(
    adapter: Path, output: Path, source: str | None, head: str | None, num_labels: int | None,
    allow_other_base: bool,
) -> None:  # fmt: skip
    """Fold an adapter into its base and write the whole model in the base's own format.

    ADAPTER is a run directory or the adapter that training wrote, and says all that is needed. Of
    any other adapter name the --source, and the --head where there is one. OUTPUT is a new folder.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not an empty folder; name a new one.")
    # torch takes seconds to import
    click.echo(f"merging {adapter}", err=True)
    from peftcore.store.files import new_folder

    with new_folder(output) as part:
        model, tokenizer = _merged(adapter, source, head, num_labels, allow_other_base)
        write: Any = getattr(model, "save_pretrained", None)
        if write is None:
            raise ConfigError(f"a {type(model).__name__} cannot write itself: no save_pretrained.")
        click.echo(f"writing {output}", err=True)
        write(part)
        if tokenizer is not None:
            tokenizer.save_pretrained(part)
    click.echo(f"merged {type(model).__name__} written to {output}")


def _merged(
    adapter: Path, source: str | None, head: str | None, num_labels: int | None, allowed: bool
) -> tuple[Any, Any]:
    """Return the model with the adapter folded in, and its tokenizer."""
    from peftcore.adapter.handle import merge_and_unload

    loaded = _of_training(adapter, source, allowed)
    if loaded is None:
        loaded = _of_source(adapter, source, head, num_labels, allowed)
        return merge_and_unload(loaded.model), loaded.tokenizer
    if given := "--head" if head else "--num-labels" if num_labels else "":
        raise ConfigError(f"{adapter} says itself what {given} would; leave it out.")
    return loaded.model, loaded.tokenizer


def _of_training(adapter: Path, source: str | None, allowed: bool) -> Loaded | None:
    """Ask the commands that write adapters; None where the adapter is of none of them."""
    for spec in installed().commands.values():
        if spec.merges:
            found: Loaded | None = resolve(spec.merges)(adapter, source, allowed)
            if found is not None:
                return found
    return None


def _of_source(
    adapter: Path, source: str | None, head: str | None, num_labels: int | None, allowed: bool
) -> Loaded:
    from peftcore.adapter.handle import load
    from peftcore.model.backbones import backbone_for_source
    from peftcore.store.checkpoint import read

    description, _ = read(adapter)
    if source is None:
        raise ConfigError(
            f"{adapter} does not say where the weights of its base are: name them with --source,"
            " and the head, if there is one, with --head."
        )
    name = description.backbone.name
    backbone = backbone_for_source(source, None if name == "structural" else name)
    options = {} if num_labels is None else {"num_labels": num_labels}
    click.echo(f"loading {source}", err=True)
    loaded = backbone.load(source, head=head or "none", **options)
    load(loaded.model, adapter, allow_other_base=allowed)
    return loaded
