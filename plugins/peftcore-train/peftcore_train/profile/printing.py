"""The profile of data as tables on stdout."""

from collections.abc import Iterable, Mapping, Sequence

import click
from rich.console import Console
from rich.table import Table

from peftcore_train.profile.profile import Profile

#: Labels that are shown; the rest is counted.
_LABELS = 20


def print_profile(title: str, profile: Profile) -> None:
    """Print what the data of a recipe holds, in tables that fit a narrow terminal."""
    listed = ", ".join(f"{count} {split}" for split, count in profile.rows.items())
    click.echo(f"{title}: good; rows: {listed}")
    if profile.labels:
        labels = by_label(profile)
        _print(("label", *profile.rows), [(name, *map(str, counts)) for name, counts in labels])
    if profile.lengths.spans:
        spans = [(split, *map(str, span.values())) for split, span in profile.lengths.spans.items()]
        unknown = [f"{profile.lengths.unknown[split]:.2%}" for split, *_ in spans]
        rows = [(*span, share) for span, share in zip(spans, unknown, strict=True)]
        _print((profile.lengths.unit, "min", "median", "95 %", "max", "unknown"), rows)
        limit = profile.lengths.limit
        if limit is not None:
            click.echo(f"the model takes {limit}")
    same = {**{f"in {split}": n for split, n in profile.repeated.within.items()},
            **profile.repeated.between}  # fmt: skip
    if any(counts["normalised"] for counts in same.values()):
        rows = [(name, str(n["exact"]), str(n["normalised"])) for name, n in same.items()]
        _print(("the same rows", "exactly", "but for case and blanks"), rows)


def shared(profiles: Mapping[str, Profile]) -> list[tuple[str, Profile]]:
    """Return each profile once, with the arms that share it."""
    arms: dict[int, tuple[list[str], Profile]] = {}
    for arm, profile in profiles.items():
        arms.setdefault(id(profile), ([], profile))[0].append(arm)
    return [(", ".join(names), profile) for names, profile in arms.values()]


def by_label(profile: Profile) -> list[tuple[str, list[int]]]:
    """Return each label with its rows in every split, commonest first; the last is the rest."""
    names = dict.fromkeys(name for counts in profile.labels.values() for name in counts)
    rows = [(name, [counts.get(name, 0) for counts in profile.labels.values()]) for name in names]
    rest = rows[_LABELS:]
    if not rest:
        return rows
    sums = [sum(counts) for counts in zip(*(counts for _, counts in rest), strict=True)]
    return [*rows[:_LABELS], (f"... {len(rest):,} more", sums)]


def _print(header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for place, name in enumerate(header):
        table.add_column(name, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console(highlight=False, markup=False).print(table)
