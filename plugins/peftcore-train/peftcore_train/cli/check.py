"""``peftcore check``."""

from pathlib import Path

import click

from peftcore import ConfigError
from peftcore_train.cli.options import as_json, print_json, settings


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@settings
@as_json
@click.option(
    "--profile",
    "page",
    type=click.Path(path_type=Path),
    help="Write the profile of the data as an HTML file that needs no network.",
)
def check(recipe: Path, overrides: tuple[str, ...], as_json: bool, page: Path | None) -> None:
    """Check RECIPE, its data and that its model fits; print the profile of the data.

    All that is wrong is told at once, with file and line. Errors exit with 2, warnings do not.
    """
    if page is not None and (page.is_dir() or not page.absolute().parent.is_dir()):
        raise ConfigError(f"--profile {page}: name a file in a folder that exists.")

    from peftcore_train.schema import load_jobs

    jobs = load_jobs(recipe, overrides)
    # what is wrong with the recipe alone is told before torch is there
    from peftcore_train.profile.findings import raise_all, shown
    from peftcore_train.profile.printing import print_profile, shared
    from peftcore_train.progress import Progress
    from peftcore_train.reading import profiles_of

    with Progress().doing(f"checking {recipe}"):
        profiles = profiles_of(jobs)
    found = list(profiles.values())
    good = not any(profile.errors for profile in found)
    if page is not None:
        from peftcore_train.profile.page import write_page

        write_page(page, str(recipe), profiles)
    if as_json:
        plain = {arm: profile.plain() for arm, profile in profiles.items()}
        data = {"arms": plain} if any(plain) else plain[""]
        print_json({"recipe": str(recipe), "ok": good, **data})
    elif good:
        for arms, profile in shared(profiles):
            print_profile(f"{recipe}{f' ({arms})' if arms else ''}", profile)
    for line in dict.fromkeys(line for profile in found for line in shown(profile.warnings)):
        click.echo(f"warning: {line}", err=True)
    raise_all([error for profile in found for error in profile.errors])
