"""Choosing among rows that nobody has labelled yet."""

from pathlib import Path
from typing import Any

from peftcore import ConfigError
from peftcore_active.pool import choose
from peftcore_train import building
from peftcore_train.data import read_rows
from peftcore_train.outputs import Output
from peftcore_train.progress import Progress
from peftcore_train.trained import one_trained


def query(
    run: Path,
    pool: Path,
    strategy: Any,
    count: int,
    passes: int,
    seed: int,
    output: Path,
    progress: Progress,
) -> None:
    """Write the rows of a file from which a run would learn most, the first to label on top.

    Args:
        run: the run directory.
        pool: the file.
        strategy: what chooses.
        count: how many rows.
        passes: forward passes with dropout, for ``bald``.
        seed: of that dropout.
        output: the new file.
        progress: what to tell the user.

    Raises:
        ConfigError: the file has fewer rows, or the run does not tell what the strategy asks.
    """
    rows = read_rows(pool)
    if count > len(rows):
        raise ConfigError(f"--count {count}: {pool} has {len(rows)} rows; take fewer.")
    job = one_trained(run).job
    centres = strategy == "k_centre"
    labelled = building.make_task(job).read(job.recipe.data, "train") if centres else []
    with progress.doing(f"asking {run} about {len(rows)} rows"):
        places, values = choose(strategy, run, rows, labelled, count, passes, seed)
    file = Output(output, {"run": str(run), "strategy": strategy})
    names = {name for row in rows for name in row.values}
    where, what = (f"queried_{n}" if n in names else n for n in ("row", strategy))
    file.add(
        [
            {**rows[place].values, where: place + 1, what: value}
            for place, value in zip(places, values, strict=True)
        ]
    )
    file.finish()
    progress.say(f"{count} of {len(rows)} rows written to {output}")
