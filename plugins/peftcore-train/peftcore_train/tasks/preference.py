"""Preference: of two answers to a prompt the better one, without a model of rewards.

DPO, Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290); IPO, Azar et al. 2023
(https://arxiv.org/abs/2310.12036). The model of reference is the same model with its adapters
switched off, so that there is no second copy.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

import peftcore
from peftcore import ConfigError, DataError, Loaded, device_of
from peftcore_train.chat import TemplateConfig
from peftcore_train.data import Columns, Row
from peftcore_train.generation import GenerationConfig
from peftcore_train.logits import by_row
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.text import LengthConfig

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Pairs of a forward pass when the reference is computed ahead.
_AHEAD = 8


class PreferenceConfig(TemplateConfig, GenerationConfig, LengthConfig):
    """The ``task`` section of preference."""

    format: Literal["prompt", "messages"] = Field(
        "prompt", description="What a prompt is: a text, or a conversation as messages."
    )
    prompt_column: str = Field("prompt", description="Column of the prompt.")
    chosen_column: str = Field(
        "chosen",
        description="Column of the better answer: a text, or a list of one turn of the assistant.",
    )
    rejected_column: str = Field("rejected", description="Column of the worse answer.")
    separator: str = Field("", description="Text at the end of each prompt, such as a line break.")
    append_eos: bool = Field(True, description="End each answer with the end-of-text token.")
    beta: float = Field(
        0.1, gt=0, le=100, description="How close to the base the tuned model is to stay."
    )
    loss: Literal["dpo", "ipo"] = Field(
        "dpo",
        description="`dpo`, or `ipo`, which squares the distance of the mean over tokens from"
        " 1 / (2 beta), and does not drift where answers are always preferred.",
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="How often the worse answer is taken to be the better one."
    )
    packing: bool = Field(False, description="Put several answers into one row of a batch.")
    precompute_reference: bool = Field(
        False,
        description="Compute the base's part of the training rows once, before the first step.",
    )


class Preference(Task):
    """A loss on the log-probabilities of two answers, each beside the base's."""

    head = "causal-lm"
    metric_names = {"loss": False, "accuracy": True, "margin": True}

    def __init__(self, config: PreferenceConfig):
        super().__init__(config)
        shared = CausalLMConfig.model_fields.keys() & PreferenceConfig.model_fields.keys()
        same = {name: getattr(config, name) for name in shared}
        same |= {"messages_column": config.prompt_column, "turns": "each"}
        # the answers are encoded as a language model's are, each after the prompt
        self._chosen, self._rejected = (
            CausalLM(CausalLMConfig(**same, completion_column=column))
            for column in (config.chosen_column, config.rejected_column)
        )

    def columns(self) -> Columns:
        """Return the columns of the prompt and both answers."""
        return Columns(
            (self.config.prompt_column,), (self.config.chosen_column, self.config.rejected_column)
        )

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a prompt and two different answers."""
        for row in rows:
            for task, column in self._answers:
                task.check([self._asked(row, column)])
            chosen, rejected = (row.column(column) for _, column in self._answers)
            if chosen == rejected:
                raise DataError(f"{row.where}: both answers are the same: nothing is preferred.")

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the features of both answers; without them those of the prompt."""
        if not labelled:
            if self.config.format == "messages":
                self._prompt(row)
            return self._chosen.encode(row, loaded, labelled=False)
        chosen, rejected = (
            task.encode(self._asked(row, column), loaded) for task, column in self._answers
        )
        longest = max(chosen["length"], rejected["length"])
        return {"chosen": chosen, "rejected": rejected, "length": longest}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Return a batch of all better answers, and after them all worse ones."""
        if "chosen" not in rows[0]:
            return self._chosen.collate(rows)
        pairs = [row[name] for name in ("chosen", "rejected") for row in rows]
        batch = self._chosen.collate(pairs)
        if "reference" in rows[0]:
            batch["reference"] = torch.tensor([row["reference"] for row in rows]).T.flatten()
        return batch

    def check_start(self, before: Mapping[str, Any]) -> None:
        """Refuse an adapter that was not trained on preferences.

        The reference is the base with the adapter off, so what that adapter learned would be lost
        to it, and pulled back to the base.
        """
        if before.get("type") != "preference":
            raise ConfigError(
                f"from: an adapter of {before.get('type', 'an unknown task')} cannot start"
                " preference, whose reference is the base with the adapter off. Merge it first,"
                " peftcore merge RUN OUT, and name OUT as backbone.source in place of from."
            )

    def begin(self, model: nn.Module, rows: Sequence[Features]) -> None:
        """Compute the base's log-probabilities of the training rows, where a recipe says so."""
        if not self.config.precompute_reference:
            return
        device = device_of(inner(model))
        for at in range(0, len(rows), _AHEAD):
            some = rows[at : at + _AHEAD]
            batch = {name: value.to(device) for name, value in self.collate(some).items()}
            found = self._of_base(model, batch).view(2, -1).T.tolist()
            for row, pair in zip(some, found, strict=True):
                row["reference"] = pair

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the pairs."""
        return self._of_pairs(self._log_ratios(model, batch)).mean()

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return of each pair the loss, whether the better answer gained more, and how much."""
        ratios = self._log_ratios(model, batch)
        margin = self.config.beta * ratios
        return {
            "loss": self._of_pairs(ratios),
            "correct": (margin > 0).long(),
            "margin": margin,
            "count": torch.ones_like(margin),
        }

    def metrics(self) -> "MetricCollection":
        """Return loss, accuracy and margin of the rewards that the model implies."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import preference_metrics

        return preference_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the answer to each prompt."""
        return self._chosen.predict(model, batch, loaded)

    @property
    def _answers(self) -> tuple[tuple[CausalLM, str], tuple[CausalLM, str]]:
        config = self.config
        return (self._chosen, config.chosen_column), (self._rejected, config.rejected_column)

    def _asked(self, row: Row, column: str) -> Row:
        """Return a row of a prompt and one answer, as a language model learns it."""
        answer = row.column(column)
        if self.config.format == "prompt":
            return row
        turns = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
        one = isinstance(turns, list) and len(turns) == 1 and isinstance(turns[0], dict)
        if not one or not answer or turns[0].get("role") != "assistant":
            raise DataError(
                f"{row.where}: column {column!r} holds {str(answer)[:80]!r}, which is neither a"
                " text nor a list of one turn of the assistant."
            )
        talk = [*self._prompt(row), *turns]
        return Row({**row.values, self.config.prompt_column: talk}, row.where)

    def _prompt(self, row: Row) -> list[Any]:
        prompt = row.column(self.config.prompt_column)
        if not isinstance(prompt, list) or not prompt:
            raise DataError(
                f"{row.where}: column {self.config.prompt_column!r} holds {str(prompt)[:80]!r},"
                " which is no list of turns."
            )
        return prompt

    def _log_ratios(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return [B], by how much more the model than the base prefers the better answer."""
        base = batch.get("reference")
        if base is None:
            base = self._of_base(model, batch)
        chosen, rejected = (self._log_probabilities(model, batch) - base).chunk(2)
        return chosen - rejected

    def _of_base(self, model: nn.Module, batch: Batch) -> Tensor:
        network = inner(model)
        # a method may ask for the loss before it is attached
        bare = peftcore.disabled(network) if peftcore.adapters(network) else nullcontext()
        with torch.no_grad(), bare, _evaluating(network):
            return self._log_probabilities(network, batch)

    def _log_probabilities(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the log-probability of each answer, [2 B]; for IPO the mean over its tokens."""
        logits = self._chosen.logits(model, batch)
        found = -F.cross_entropy(logits, batch["targets"], reduction="none")
        rows = len(batch["prompt_length"])
        total = by_row(found, batch, rows)
        return total / by_row(torch.ones_like(found), batch, rows) if self._mean else total

    @property
    def _mean(self) -> bool:
        return bool(self.config.loss == "ipo")

    def _of_pairs(self, ratios: Tensor) -> Tensor:
        """Return the loss of each pair, [B]."""
        config = self.config
        if self._mean:
            return (ratios - 1 / (2 * config.beta)).square()
        right, wrong = F.logsigmoid(config.beta * ratios), F.logsigmoid(-config.beta * ratios)
        return -(1 - config.label_smoothing) * right - config.label_smoothing * wrong


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off for a while, and leave every module as it was found."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
