"""Causal language modelling of prompt and completion; the loss is on the completion."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

import peftcore
from peftcore import ConfigError, DataError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.tasks.masked_lm import token_scores
from peftcore_train.text import (
    TokenConfig,
    check_length,
    fills,
    most_tokens,
    padded,
    tokenizer_of,
)

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

_IGNORED = -100


class CausalLMConfig(TokenConfig):
    """The ``task`` section of causal language modelling."""

    prompt_column: str = Field("prompt", description="Column of the prompt.")
    completion_column: str = Field("completion", description="Column of what is to follow.")
    separator: str = Field("", description="Text at the end of each prompt, such as a line break.")
    train_on_inputs: bool = Field(False, description="Put the loss on the prompt as well.")
    append_eos: bool = Field(True, description="End each completion with the end-of-text token.")
    max_new_tokens: int = Field(
        128, ge=1, le=1_000_000, description="Most tokens to generate when predicting."
    )


class CausalLM(Task):
    """Next-token cross-entropy; padding on the right, on the left when generating."""

    head = "causal-lm"
    metric_names = {"loss": False, "perplexity": False, "accuracy": True}

    def __init__(self, config: CausalLMConfig):
        super().__init__(config)
        self._tokenizer: Any = None

    def columns(self) -> Columns:
        """Return the columns of prompt and completion."""
        return Columns((self.config.prompt_column,), (self.config.completion_column,))

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a prompt and a completion."""
        for row in rows:
            row.text(self.config.prompt_column)
            row.text(self.config.completion_column)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of prompt and completion, and how many are the prompt's."""
        self._tokenizer = tokenizer_of(loaded)
        limit = most_tokens(self.config.max_length, loaded)
        text = row.text(self.config.prompt_column) + self.config.separator
        prompt = self._tokenizer(text, verbose=False)["input_ids"]
        # some tokenizers close every text with the end token; the completion follows here
        if prompt and prompt[-1] == self._tokenizer.eos_token_id:
            prompt = prompt[:-1]
        if not labelled:
            check_length(len(prompt), self._room(limit), row)
            return _features(prompt, prompt_length=len(prompt))
        completion = self._completion(row)
        if self.config.truncation and limit is not None:
            completion = completion[: max(0, limit - len(prompt))]
            if not completion:
                raise DataError(
                    f"{row.where}: the prompt alone has {len(prompt)} tokens and {limit} fit;"
                    " nothing of the completion is left."
                )
        ids = [*prompt, *completion]
        check_length(len(ids), limit, row)
        hidden = 0 if self.config.train_on_inputs else len(prompt)
        labels = [_IGNORED] * hidden + ids[hidden:]
        return {**_features(ids, prompt_length=len(prompt)), "labels": labels}

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right; on the left where there is no completion."""
        labelled = "labels" in rows[0]
        fill = fills(self._tokenizer, rows) | ({"labels": _IGNORED} if labelled else {})
        batch: Batch = dict(padded(rows, fill, left=not labelled))
        batch["prompt_length"] = torch.tensor([row["prompt_length"] for row in rows])
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the labelled tokens of the batch."""
        logits, labels = self._logits(model, batch)
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right answers and the labelled tokens of each row."""
        return token_scores(*self._logits(model, batch))

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, and the share predicted right."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return token_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the greedy completion of each prompt."""
        network: Any = inner(model)
        tokens = network.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=False,
            max_new_tokens=self.config.max_new_tokens,
            pad_token_id=self._tokenizer.pad_token_id,
        )
        new = tokens[:, batch["input_ids"].shape[1] :]
        texts = self._tokenizer.batch_decode(new, skip_special_tokens=True)
        return [{"completion": text} for text in texts]

    def _room(self, limit: int | None) -> int | None:
        """Return how many tokens a prompt may have when something is generated after it."""
        new = self.config.max_new_tokens
        if limit is not None and new >= limit:
            raise ConfigError(
                f"task.max_new_tokens is {new}, but the model takes {limit} tokens, the prompt's"
                " included."
            )
        return None if limit is None else limit - new

    def _completion(self, row: Row) -> list[int]:
        text = row.text(self.config.completion_column)
        ids = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        end = self._tokenizer.eos_token_id
        return [*ids, end] if self.config.append_eos and end is not None else list(ids)

    def _logits(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits [B, L-1, V] and the next tokens that they predict [B, L-1]."""
        # the boundary is said, not found from labels: with train_on_inputs they begin at once
        with peftcore.prompt(inner(model), batch["prompt_length"]):
            out = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        return out.logits[:, :-1].float(), batch["labels"][:, 1:]


def _features(ids: list[int], *, prompt_length: int) -> Features:
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "prompt_length": prompt_length,
        "length": len(ids),
    }
