"""A trained adapter on its model, and the logit that is explained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import Adapter, ConfigError, Loaded, argument_names, nearest
from peftcore_train import building
from peftcore_train.data import Row
from peftcore_train.running import reload
from peftcore_train.schema import Job
from peftcore_train.task import Batch, Features, Task
from peftcore_train.trained import one_trained

#: Heads of which a logit is explained.
_HEADS = ("sequence-classification", "token-classification")


@dataclass
class Opened:
    """A trained adapter on its model, in evaluation mode.

    Attributes:
        job: the recipe.
        task: its task.
        model: the model.
        adapter: the adapter.
        loaded: the backbone, with its tokenizer.
        place: the run directory.
    """

    job: Job
    task: Task
    model: nn.Module
    adapter: Adapter
    loaded: Loaded
    place: Path

    @property
    def labels(self) -> list[str]:
        """Names of the head's outputs: labels, or the columns of numbers."""
        numbers = getattr(self.task.config, "target_columns", ())
        return [str(label) for label in self.task.learned().get("labels", numbers)]

    def encode(self, row: Row) -> Features:
        """Return the features of a row, without its answer."""
        return self.task.encode(row, self.loaded, labelled=False)

    def inputs(self, features: Sequence[Features]) -> Batch:
        """Return the model's inputs of a batch, all of them tensors."""
        batch = self.task.collate(list(features))
        known = argument_names(self.model)
        return {k: v for k, v in batch.items() if k in known and isinstance(v, Tensor)}


def opened(run: Path, overrides: Sequence[str] = ()) -> Opened:
    """Load the adapter of a run onto its model.

    Raises:
        ConfigError: the directory is no run, or holds several.
        CheckpointError: the adapter is damaged or belongs to another base.
    """
    trained = one_trained(run, overrides)
    task = building.make_task(trained.job)
    model, adapter, loaded = reload(trained.job, task, trained.adapter)
    return Opened(trained.job, task, model.eval(), adapter, loaded, trained.place)


def check_tokens(run: Opened) -> None:
    """Raise ConfigError where the model of a run reads no tokens, or answers with no logits."""
    if run.loaded.tokenizer is None or run.task.head not in _HEADS:
        raise ConfigError(
            f"{run.place}: the task {run.job.task_type} has no logit, of a text, a sequence or a"
            " word in it, that could be explained; ablation and spectrum need none."
        )


@dataclass
class Output:
    """One number of a model's output: what is explained.

    Attributes:
        index: of the label or number.
        name: of it.
        token: place of the token whose logits are meant; None where a row has one answer.
    """

    index: int
    name: str
    token: int | None = None

    def of(self, logits: Tensor) -> Tensor:
        """Return the number of each row, [B]; logits are [B, C] or [B, L, C]."""
        rows = logits if self.token is None else logits[:, self.token]
        return rows[:, self.index].float()


@dataclass
class Subject:
    """A row that is explained.

    Attributes:
        row: the row.
        features: its features.
        inputs: of the model, [1, L] each.
        output: what is explained of it.
        tokens: the tokens, as texts.
        special: which of them the tokenizer added.
        logits: of the tuned model.
    """

    row: Row
    features: Features
    inputs: Batch
    output: Output
    tokens: list[str]
    special: list[bool]
    logits: list[float] = field(default_factory=list)


def logits_of(model: nn.Module, inputs: Mapping[str, Tensor]) -> Tensor:
    """Return what a model says of a batch, [B, C] or [B, L, C]."""
    found: Tensor = model(**inputs).logits
    return found


@torch.no_grad()
def subject(run: Opened, row: Row, label: str | None, at: int | None) -> Subject:
    """Return a row with what is explained of it: a label's logit, by default the likeliest one's.

    Args:
        run: the run.
        row: the row.
        label: name of the label.
        at: number of the word or residue, from 1, where each has a label of its own.

    Raises:
        ConfigError: there is no such label, or no such word.
    """
    features = run.encode(row)
    inputs = run.inputs([features])
    logits = logits_of(run.model, inputs)
    token = _token(run, row, features, at, wanted=logits.ndim == 3)
    of_row = logits[0] if token is None else logits[0, token]
    names = run.labels
    if label is not None and label not in names:
        raise ConfigError(
            f"--label {label}: the labels are {', '.join(names)}.{nearest(label, names)}"
        )
    index = int(of_row.argmax()) if label is None else names.index(label)
    ids = inputs["input_ids"][0].tolist()
    tokenizer: Any = run.loaded.tokenizer
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return Subject(
        row, features, inputs, Output(index, names[index], token),
        list(map(str, tokenizer.convert_ids_to_tokens(ids))),
        [one in special for one in ids], of_row.tolist(),
    )  # fmt: skip


def _token(
    run: Opened, row: Row, features: Features, at: int | None, *, wanted: bool
) -> int | None:
    """Return the token of a word; None where a row has one answer."""
    if not wanted:
        if at is not None:
            raise ConfigError(
                f"--at {at}: a row of {run.job.task_type} has one answer; leave it out."
            )
        return None
    firsts = features["firsts"]
    if at is None:
        raise ConfigError(
            f"each of the {len(firsts)} words of {row.where} has a label of its own: say which one"
            " is explained with --at 1 and so on."
        )
    if not 1 <= at <= len(firsts) or firsts[at - 1] is None:
        raise ConfigError(f"--at {at}: {row.where} has {len(firsts)} words, counted from 1.")
    return int(firsts[at - 1])
