"""Scoring a model on the rows of a split."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peftcore_train.task import Batch, Task


def evaluate(
    task: Task,
    model: nn.Module,
    batches: Iterable[Batch],
    accelerator: Accelerator,
    between: Callable[[], Any] = lambda: None,
    keep: Callable[[dict[str, Tensor]], Any] = lambda scores: None,
) -> dict[str, float]:
    """Return the metrics of a model, which is left in evaluation mode.

    Args:
        task: the task.
        model: the model, prepared by the accelerator.
        batches: batches, prepared by the accelerator.
        accelerator: where the model runs.
        between: called after every batch; it may raise to stop.
        keep: given what each batch is scored by, on the CPU, in the order of the batches.
    """
    model.eval()
    metrics = task.metrics()
    for metric in metrics.values():
        # the rows of all processes are gathered below; the metrics must not add them up again
        metric.sync_on_compute = False
    with torch.no_grad():
        for batch in batches:
            with accelerator.autocast():
                scores = task.score(model, batch)
            if accelerator.num_processes > 1:
                # what is kept for each token is as long as the longest row of a process
                scores = accelerator.pad_across_processes(scores, dim=1, pad_index=-100)
                scores = accelerator.gather_for_metrics(scores)
            scores = {name: value.cpu() for name, value in scores.items()}
            metrics.update(**scores)
            keep(scores)
            between()
    # seconds of imports, which the first training step need not wait for
    from peftcore_train.metrics import computed

    found = computed(metrics)
    # torchmetrics sorts by name
    return {name: found[name] for name in task.metric_names if name in found} | found
