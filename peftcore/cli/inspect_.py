"""``peftcore inspect PATH``."""

from pathlib import Path

import click

from peftcore.cli._tables import print_json, table


@click.command("inspect")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
@click.option("--tensors", is_flag=True, help="List every tensor.")
def command(path: Path, as_json: bool, tensors: bool) -> None:
    """Describe a saved adapter, after checking that it is whole."""
    from peftcore.store.checkpoint import inspect

    found = inspect(path)
    if as_json:
        print_json(found)
        return
    click.echo(f"adapter     {path} (whole, {len(found['tensors'])} tensors)")
    for method in found["methods"]:
        settings = ", ".join(f"{k}={_short(v)}" for k, v in method["config"].items())
        click.echo(f"method      {method['method']} ({method['distribution']} {method['version']})")
        click.echo(f"            {settings}")
    base = found["backbone"]
    click.echo(
        f"base        {base['model']} ({base['name']}), {base['fingerprint']['parameters']:,}"
        f" parameters, values {base['fingerprint']['values'][:8]}"
    )
    click.echo(f"trainable   {found['trainable']:,}")
    for key in ("modules_to_save", "save_frozen"):
        if found[key]:
            click.echo(f"{key:<16}{', '.join(found[key])}")
    if tensors:
        rows = [(name, "x".join(map(str, shape))) for name, shape in found["tensors"].items()]
        click.echo("\n" + table(("tensor", "shape"), rows))


def _short(value: object) -> str:
    if isinstance(value, dict) and "roles" in value:
        return "[" + ", ".join(value["roles"]) + "]"
    return str(value)
