"""Causal language modelling of prompts and completions, conversations, or plain text."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

import peftcore
from peftcore import DataError, Loaded
from peftcore_train.chat import ChatConfig, Template, conversation, each_turn
from peftcore_train.data import Columns, Row
from peftcore_train.generation import (
    ScoredConfig,
    as_tensor,
    generated,
    room_for_prompt,
    with_text_metrics,
)
from peftcore_train.logits import IGNORED, logits_at, targets_of, token_loss, token_scores
from peftcore_train.packing import packed
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.text import (
    LengthConfig,
    check_length,
    fills,
    ids_of,
    most_tokens,
    padded,
    tokenizer_of,
)

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class CausalLMConfig(ChatConfig, ScoredConfig, LengthConfig):
    """The ``task`` section of causal language modelling."""

    format: Literal["prompt", "messages", "text"] = Field(
        "prompt",
        description="What a row holds: a prompt with its completion, a conversation as messages, or"
        " plain text.",
    )
    prompt_column: str = Field("prompt", description="Column of the prompt.")
    completion_column: str = Field("completion", description="Column of what is to follow.")
    separator: str = Field("", description="Text at the end of each prompt, such as a line break.")
    train_on_inputs: bool = Field(False, description="Put the loss on the prompt as well.")
    append_eos: bool = Field(
        True,
        description="End each completion or text with the end-of-text token; of a conversation the"
        " template says how it ends.",
    )
    turns: Literal["all", "each"] = Field(
        "all",
        description="Learn all turns of the assistant in one row, or make each a row of its own,"
        " with the turns before it: for templates that rewrite earlier turns.",
    )
    text_column: str = Field("text", description="Column of plain text.")
    packing: bool = Field(
        False,
        description="Put several rows of a batch into one, instead of padding; the loss is the"
        " same.",
    )

    @model_validator(mode="after")
    def _texts_have_an_end(self) -> "CausalLMConfig":
        if self.format == "text" and self.generate_metrics:
            raise ValueError("generate_metrics needs a prompt and an answer; plain text has none")
        return self


class CausalLM(Task):
    """Next-token cross-entropy; padding on the right, on the left when generating."""

    head = "causal-lm"

    def __init__(self, config: CausalLMConfig):
        super().__init__(config)
        self.metric_names = {
            "loss": False, "perplexity": False, "accuracy": True, **config.text_metrics,
        }  # fmt: skip
        self._tokenizer: Any = None

    def columns(self) -> Columns:
        """Return the columns that a format reads, and those of the answer."""
        config = self.config
        if config.format == "messages":
            return Columns((config.messages_column,))
        if config.format == "text":
            return Columns((config.text_column,))
        return Columns((config.prompt_column,), (config.completion_column,))

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split; with ``turns: each`` one for every turn of the assistant."""
        rows = super().read(data, split, problems)
        if self.config.format != "messages" or self.config.turns == "all":
            return rows
        return [turn for row in rows for turn in each_turn(row, self.config)]

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row holds what its format has."""
        for row in rows:
            if self.config.format == "messages":
                conversation(row, self.config)
            elif self.config.format == "text":
                row.text(self.config.text_column)
            else:
                self._check_format(row)
                row.text(self.config.prompt_column)
                row.text(self.config.completion_column)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of a row, the labels, and how many are the prompt's."""
        self._tokenizer = tokenizer_of(loaded)
        limit = most_tokens(self.config.max_length, loaded)
        if not labelled:
            prompt = self._prompt(row, loaded)
            check_length(len(prompt), room_for_prompt(self.config, limit), row)
            return _features(prompt, prompt_length=len(prompt))
        ids, said = self._said(row, loaded)
        if not any(said):
            raise DataError(
                f"{row.where}: the assistant says nothing, so there is nothing to learn."
            )
        if limit is not None:
            _check_begins(said, limit, row)
        if self.config.truncation and limit is not None:
            ids, said = ids[:limit], said[:limit]
        check_length(len(ids), limit, row)
        labels = [token if learned else IGNORED for token, learned in zip(ids, said, strict=True)]
        if all(label == IGNORED for label in labels[1:]):
            raise DataError(f"{row.where}: no token follows another, so nothing is predicted.")
        if self.config.train_on_inputs:
            labels = list(ids)
        # where all is learned, all is a prompt
        begins = said.index(True) or len(ids)
        features = {**_features(ids, prompt_length=begins), "labels": labels}
        if self.config.generate_metrics:
            features |= self._reference(row, loaded, limit)
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad on the right or pack; pad on the left where something is to be generated."""
        fill = fills(self._tokenizer, rows)
        if "labels" not in rows[0]:
            return dict(padded(rows, fill, left=True))
        lengths = torch.tensor([row["prompt_length"] for row in rows])
        batch: Batch
        if self.config.packing:
            batch = dict(packed(rows))
            batch |= targets_of(batch["labels"], shift=1, rows=batch.pop("sequence_rows"))
        else:
            batch = {**padded(rows, {**fill, "labels": IGNORED}), "prompt": lengths}
            batch |= targets_of(batch["labels"], shift=1)
        batch["prompt_length"] = lengths
        if "reference" in rows[0]:
            asked = padded([row["asked"] for row in rows], fill, left=True)
            batch["reference"] = as_tensor([row["reference"] for row in rows])
            batch |= {f"asked_{name}": value for name, value in asked.items()}
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the labelled tokens of the batch."""
        return token_loss(self.logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return the summed loss, the right answers and the labelled tokens of each row.

        Where metrics of texts are asked for, also the reference and what was generated.
        """
        logits = self.logits(model, batch)
        scores = token_scores(logits, batch, len(batch["prompt_length"]))
        if "reference" in batch:
            texts = generated(model, _asked(batch), self.config, self._tokenizer, draw=False)
            device = batch["reference"].device
            scores["prediction"] = as_tensor(texts).to(device)
            scores["reference"] = batch["reference"]
        return scores

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, the share predicted right, and those of texts."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return with_text_metrics(token_metrics(), self.config)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the completion of each prompt, or the next turn of each conversation."""
        texts = generated(model, batch, self.config, self._tokenizer, draw=True)
        return [{"completion": text} for text in texts]

    def _check_format(self, row: Row) -> None:
        other = {"messages": self.config.messages_column, "text": self.config.text_column}
        found = [name for name, column in other.items() if column in row.values]
        if self.config.prompt_column not in row.values and found:
            raise DataError(
                f"{row.where}: no column {self.config.prompt_column!r}, but {other[found[0]]!r}:"
                f" say task.format: {found[0]}."
            )

    def _said(self, row: Row, loaded: Loaded) -> tuple[list[int], list[bool]]:
        """Return the tokens of a row, and of each whether it is learned."""
        config, end = self.config, self._tokenizer.eos_token_id
        close = [end] if config.append_eos and end is not None else []
        if config.format == "messages":
            template = Template(config, self._tokenizer, loaded.source)
            chat = conversation(row, config)
            text, spans = template.spoken(chat, last=config.turns == "each")
            return template.tokens(text, spans, loaded.source)
        if config.format == "text":
            ids = [*ids_of(self._tokenizer, row.text(config.text_column)), *close]
            return ids, [True] * len(ids)
        prompt = self._prompt(row, loaded)
        completion = row.text(config.completion_column)
        ids = self._tokenizer(completion, add_special_tokens=False, verbose=False)["input_ids"]
        answer = [*ids, *close]
        return [*prompt, *answer], [False] * len(prompt) + [True] * len(answer)

    def _prompt(self, row: Row, loaded: Loaded) -> list[int]:
        """Return the tokens after which something is to be generated."""
        config = self.config
        if config.format == "messages":
            template = Template(config, self._tokenizer, loaded.source)
            text = template.prompt(conversation(row, config, answered=False))
            return template.tokens(text, [], loaded.source)[0]
        if config.format == "text":
            return ids_of(self._tokenizer, row.text(config.text_column))
        return ids_of(self._tokenizer, row.text(config.prompt_column) + config.separator)

    def _reference(self, row: Row, loaded: Loaded, limit: int | None) -> Features:
        """Return the prompt of the last answer, and that answer."""
        if self.config.format == "prompt":
            asked, reference = self._prompt(row, loaded), row.text(self.config.completion_column)
        else:
            template = Template(self.config, self._tokenizer, loaded.source)
            chat = conversation(row, self.config)
            turn = chat.answers[-1]
            text = template.prompt(chat.up_to(turn))
            asked, _ = template.tokens(text, [], loaded.source)
            text, spans = template.spoken(chat.up_to(turn + 1), last=True)
            ids, said = template.tokens(text, spans, loaded.source)
            answer = [token for token, learned in zip(ids, said, strict=True) if learned]
            reference = self._tokenizer.decode(answer, skip_special_tokens=True)
        check_length(len(asked), room_for_prompt(self.config, limit), row)
        return {"asked": _features(asked, prompt_length=len(asked)), "reference": reference}

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the places that predict a labelled token, [N, V]."""
        names = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
        inputs: dict[str, Any] = {name: batch[name] for name in names if name in batch}
        if self.config.packing:
            # without mask and cache transformers tells the rows apart by their positions
            inputs["use_cache"] = False
        network = inner(model)
        # a method may ask for the loss before it is attached
        attached = bool(peftcore.adapters(network))
        # the boundary is said, not found from labels: with train_on_inputs they begin at once
        with peftcore.prompt(network, batch["prompt"]) if attached else nullcontext():
            return logits_at(model, batch["places"], **inputs)


def _features(ids: list[int], *, prompt_length: int) -> Features:
    return {
        "input_ids": ids,
        "attention_mask": [1] * len(ids),
        "prompt_length": prompt_length,
        "length": len(ids),
    }


def _asked(batch: Batch) -> dict[str, Tensor]:
    return {n: batch[f"asked_{n}"] for n in ("input_ids", "attention_mask")}


def _check_begins(said: Sequence[bool], limit: int, row: Row) -> None:
    """Raise DataError where nothing that is to be learned fits, so that no cut helps."""
    begins = said.index(True)
    if begins >= limit:
        raise DataError(
            f"{row.where}: the prompt alone has {begins} tokens and {limit} fit;"
            " nothing of the completion is left. Raise task.max_length if the model takes more, or"
            " leave the row out."
        )
