"""The contract of tasks lets none of these faults through."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MetricCollection

from peftcore import TaskSpec
from peftcore.testing import register_kit
from peftcore_train import running
from peftcore_train.metrics import MeanLoss
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.tasks.classification import ClassificationConfig, SequenceClassification
from peftcore_train.tasks.masked_lm import MaskedLM, MaskedLMConfig
from peftcore_train.testing import TaskContract
from peftcore_train.text import padded

TEXTS = ["the film was great", "a dull story", "it was lovely and bright", "fine", "awful people"]


class MeansOfTokens(CausalLM):
    """A row's loss is the mean of its tokens where their sum is asked."""

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scores = super().score(model, batch)
        return {**scores, "loss": scores["loss"] / scores["count"]}


class MeanOfTheBatch(SequenceClassification):
    """Every row has the batch's mean loss; no sum over rows shows it."""

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        scores = super().score(model, batch)
        return {**scores, "loss": scores["loss"].mean().expand_as(scores["loss"])}


class MeansOfMeans(SequenceClassification):
    """The loss is the mean of the means of batches."""

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        loss = super().score(model, batch)["loss"]
        return {"loss": loss.mean()[None], "count": torch.ones(1)}

    def metrics(self) -> MetricCollection:
        return MetricCollection({"loss": MeanLoss()})


class WithoutMask(SequenceClassification):
    """Padding is read as text."""

    def collate(self, rows: Any) -> Batch:
        batch = super().collate(rows)
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}


class PaddingCounts(MaskedLM):
    """The loss is summed over what is predicted, and divided by what is there."""

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        logits = self.logits(model, batch)
        total = F.cross_entropy(logits, batch["targets"], reduction="sum")
        return total / batch["labels"].numel()


class InPlace(MaskedLM):
    """What was masked once stays masked in every epoch."""

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        found = super().augment(features, generator)
        features["input_ids"][:] = found["input_ids"]
        return found


class ChanceElsewhere(MaskedLM):
    """Draws from torch's own generator, which a run that goes on has not."""

    def augment(self, features: Features, generator: torch.Generator) -> Features:
        return super().augment(features, torch.default_generator)


class PadsRight(CausalLM):
    """Generates after padding."""

    def collate(self, rows: Any) -> Batch:
        batch = super().collate(rows)
        if "labels" not in rows[0]:
            fill = {"input_ids": self._tokenizer.pad_token_id, "attention_mask": 0}
            batch.update(padded(rows, fill))
        return batch


def texts(column: str, **others: list[Any]) -> Any:
    rows = [
        {column: text, **{name: values[i] for name, values in others.items()}}
        for i, text in enumerate(TEXTS)
    ]
    return {"train": rows, "validation": rows[:3], "test": rows[1:]}


LABELLED = texts("text", label=["good", "bad", "good", "good", "bad"])
PROMPTS = texts("prompt", completion=["great fine", "dull", "awful and weak", "it", "the film"])
#: Name to the task, its configuration, its rows, its model, and what the test of a kind says.
FAULTS: dict[str, tuple[type[Task], type, Any, str, str, str]] = {
    "means of tokens": (
        MeansOfTokens, CausalLMConfig, PROMPTS, "llama",
        "the_metric_loss_is_that_of_training", "the metric loss is",
    ),
    "mean of the batch": (
        MeanOfTheBatch, ClassificationConfig, LABELLED, "bert",
        "the_scores_of_a_row_are_its_own", "'loss' of row 0 depends on what else",
    ),
    "means of means": (
        MeansOfMeans, ClassificationConfig, LABELLED, "bert",
        "scores_do_not_depend_on_the_size_of_batches", "other sizes of batches give other scores",
    ),
    "no row axis": (
        MeansOfMeans, ClassificationConfig, LABELLED, "bert",
        "the_scores_of_a_row_are_its_own", "the first axis of 'loss' is not the row",
    ),
    "no mask": (
        WithoutMask, ClassificationConfig, LABELLED, "bert",
        "predictions_do_not_depend_on_the_batch", "among others",
    ),
    "no mask in training": (
        WithoutMask, ClassificationConfig, LABELLED, "bert",
        "the_loss_of_a_batch_is_the_mean_of_its_terms", "rows change each other",
    ),
    "padding counts": (
        PaddingCounts, MaskedLMConfig, texts("text"), "bert",
        "the_loss_of_a_batch_is_the_mean_of_its_terms", "rows change each other",
    ),
    "in place": (
        InPlace, MaskedLMConfig, texts("text"), "bert",
        "chance_is_in_the_generator_and_rows_stay_as_they_are", "augment changes the row|draws",
    ),
    "chance elsewhere": (
        ChanceElsewhere, MaskedLMConfig, texts("text"), "bert",
        "chance_is_in_the_generator_and_rows_stay_as_they_are", "draws from elsewhere",
    ),
    "pads right": (
        PadsRight, CausalLMConfig, PROMPTS, "llama",
        "predictions_do_not_depend_on_the_batch", "among others",
    ),
}  # fmt: skip
SOUND = {CausalLMConfig: CausalLM, ClassificationConfig: SequenceClassification,
         MaskedLMConfig: MaskedLM}  # fmt: skip
Tuned = Callable[[str, type[Task]], tuple[TaskContract, running.Prepared]]


@pytest.fixture
def tuned(
    request: pytest.FixtureRequest, with_plugin: Callable[..., Any],
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch,
) -> Tuned:  # fmt: skip
    """Return the function that has a task and makes its contract with a tuned model."""

    register_kit()

    def make(fault: str, kind: type[Task]) -> tuple[TaskContract, running.Prepared]:
        _, fields, given, model, _, _ = FAULTS[fault]
        few = {"max_new_tokens": 4} if fields is CausalLMConfig else {}
        inside = SimpleNamespace(Config=fields, Task=kind)
        monkeypatch.setitem(sys.modules, "faulty", inside)  # type: ignore[arg-type]
        with_plugin(TaskSpec("faulty", "A.", "faulty:Config", "faulty:Task"))

        class Contract(TaskContract):
            task = "faulty"
            config = few
            rows = given
            answers = ("label", "completion")

            def terms(self, batch: Batch, rows: int) -> float:
                return int((batch["labels"] != -100).sum()) if "labels" in batch else rows

        source: Path = request.getfixturevalue(model)
        return Contract(), Contract.prepared(tmp_path_factory.mktemp("tuned"), source)

    return make


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_of_a_task_is_found(name: str, tuned: Tuned) -> None:
    kind, _, _, _, test, sentence = FAULTS[name]
    contract, prepared = tuned(name, kind)
    with pytest.raises(AssertionError, match=sentence):
        getattr(contract, f"test_{test}")(prepared)


@pytest.mark.parametrize("name", ["means of tokens", "no mask", "in place"])
def test_a_task_without_a_fault_passes_all_of_these(name: str, tuned: Tuned) -> None:
    _, config, _, _, _, _ = FAULTS[name]
    contract, prepared = tuned(name, SOUND[config])
    contract.predicts = config is not MaskedLMConfig
    for test in {fault[4] for fault in FAULTS.values()}:
        if config is MaskedLMConfig and "predictions" in test:
            continue
        getattr(contract, f"test_{test}")(prepared)
