"""``peftcore merge ADAPTER``."""

from pathlib import Path
from typing import Any

import click

from peftcore.errors import ConfigError


@click.command("merge")
@click.argument("adapter", type=click.Path(path_type=Path))
@click.option("--source", required=True, help="Folder or name of the base's weights.")
@click.option("--output", required=True, type=click.Path(path_type=Path), help="New folder.")
@click.option("--head", default="none", help="Head of the model, such as causal-lm.")
@click.option(
    "--num-labels", type=click.IntRange(min=1), help="Number of labels of a classification head."
)
@click.option("--allow-other-base", is_flag=True, help="Accept a base with other weights.")
def command(
    adapter: Path, source: str, output: Path, head: str, num_labels: int | None,
    allow_other_base: bool,
) -> None:  # fmt: skip
    """Fold an adapter into its base and write the whole model in the base's own format."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists and is not an empty folder; name a new one.")
    from peftcore.adapter.handle import load, merge_and_unload
    from peftcore.model.backbones import backbone_for_source
    from peftcore.store.checkpoint import read

    description, _ = read(adapter)
    name = description.backbone.name
    backbone = backbone_for_source(source, None if name == "structural" else name)
    options = {} if num_labels is None else {"num_labels": num_labels}
    loaded = backbone.load(source, head=head, **options)
    load(loaded.model, adapter, allow_other_base=allow_other_base)
    model = merge_and_unload(loaded.model)
    write: Any = getattr(model, "save_pretrained", None)
    if write is None:
        raise ConfigError(f"a {type(model).__name__} cannot write itself: no save_pretrained.")
    write(output)
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(output)
    click.echo(f"merged model written to {output}")
