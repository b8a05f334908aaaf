"""What each block's part of an adapter is worth: the scores without it."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from peftcore import ConfigError
from peftcore_interpret.opened import Opened
from peftcore_interpret.switching import base_under_head, blocks_of, off_in
from peftcore_train.data import Row
from peftcore_train.progress import Progress
from peftcore_train.running import Scorer, make_accelerator


def ablation(run: Opened, rows: Sequence[Row], progress: Progress) -> dict[str, Any]:
    """Return the scores of rows as tuned, with the adapter off in one block after another, and off.

    Heads that were trained stay in any case.

    Raises:
        ConfigError: the model has no blocks.
    """
    blocks = blocks_of(run.model)
    if not blocks:
        raise ConfigError(
            f"{run.place}: no block is known of the {type(run.model).__name__}, whose part of the"
            " adapter could be switched off; leave ablation out."
        )
    task, model = run.task, run.model
    task.check(rows)
    features = [task.encode(row, run.loaded) for row in rows]
    accelerator = make_accelerator(run.job.recipe.train)
    scorer = Scorer(task, model, accelerator, run.job.recipe.train, Progress(quiet=True))
    metric, _ = task.chosen_metric(run.job.recipe.train.metric_for_best)

    names = dict.fromkeys(("loss", metric, task.default_metric))

    def scores(context: AbstractContextManager[None]) -> dict[str, float]:
        with context:
            found = scorer.score(features, "rows")
        return {name: found[name] for name in names if name in found}

    found: dict[str, Any] = {
        "metric": metric,
        "rows": len(rows),
        "tuned": scores(nullcontext()),
        "base": scores(base_under_head(model, run.adapter)),
        "blocks": {},
    }
    for path, block in progress.counted(blocks.items(), "ablating", len(blocks), unit="blocks"):
        found["blocks"][path] = scores(off_in(model, [block]))
    return found
