"""Sequence to sequence: an encoder reads a source, and a decoder writes the target."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field
from torch import Tensor, nn

from peftcore import ConfigError, Loaded
from peftcore_train.data import Columns, Row
from peftcore_train.generation import (
    ScoredConfig,
    TextMetric,
    as_tensor,
    generated,
    room_for_prompt,
    with_text_metrics,
)
from peftcore_train.logits import IGNORED, logits_at, targets_of, token_loss, token_scores
from peftcore_train.task import Batch, Features, Task, inner
from peftcore_train.text import (
    LengthConfig,
    check_length,
    fills,
    most_tokens,
    padded,
    tokenizer_of,
)

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class Seq2SeqConfig(ScoredConfig, LengthConfig):
    """The ``task`` section of sequence to sequence."""

    source_column: str = Field("source", description="Column of the text to read.")
    target_column: str = Field("target", description="Column of the text to write.")
    source_prefix: str = Field(
        "", description="Text in front of each source, such as `summarize: ` for T5."
    )
    max_target_length: int | None = Field(
        None, ge=1, description="Most tokens of a target; what the model takes, if not given."
    )
    generate_metrics: tuple[TextMetric, ...] = Field(
        ("exact_match", "rouge_l"),
        description="Metrics of texts that are generated for every row that is scored, each from 0"
        " to 1; `[]` generates none, which is much faster.",
    )


class Seq2Seq(Task):
    """Cross-entropy of the target's tokens, each after those before it."""

    head = "seq2seq-lm"

    def __init__(self, config: Seq2SeqConfig):
        super().__init__(config)
        self.metric_names = {
            "loss": False, "perplexity": False, "accuracy": True, **config.text_metrics,
        }  # fmt: skip
        self._tokenizer: Any = None

    def columns(self) -> Columns:
        """Return the columns of source and target."""
        return Columns((self.config.source_column,), (self.config.target_column,))

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a source and a target."""
        for row in rows:
            row.text(self.config.source_column)
            row.text(self.config.target_column)

    def build(self, loaded: Loaded) -> nn.Module:
        """Return the model, which must be of an encoder and a decoder."""
        if not hasattr(loaded.model, "prepare_decoder_input_ids_from_labels"):
            raise ConfigError(
                f"backbone.source {loaded.source}: {type(loaded.model).__name__} does not say what"
                " its decoder reads. Take a model of an encoder and a decoder, such as T5 or BART."
            )
        return super().build(loaded)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of the source, the labels, and the target itself."""
        config = self.config
        self._tokenizer = tokenizer_of(loaded)
        limit = most_tokens(config.max_length, loaded)
        source = config.source_prefix + row.text(config.source_column)
        features: Features = self._tokens(row, limit, text=source)
        features["length"] = len(features["input_ids"])
        if not labelled or config.generate_metrics:
            room_for_prompt(config, most_tokens(None, loaded))
        if labelled:
            features["target"] = row.text(config.target_column)
            most = most_tokens(config.max_target_length, loaded)
            features["labels"] = self._labels(row, most, features["target"])
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad sources and targets on the right."""
        fill = fills(self._tokenizer, rows)
        if "labels" not in rows[0]:
            return dict(padded(rows, fill))
        batch: Batch = dict(padded(rows, {**fill, "labels": IGNORED}))
        if self.config.generate_metrics:
            batch["reference"] = as_tensor([row["target"] for row in rows])
        return {**batch, **targets_of(batch["labels"], shift=0)}

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the targets' tokens."""
        return token_loss(self._logits(model, batch), batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return of each row the summed loss, right tokens and their number, and the two texts."""
        scores = token_scores(self._logits(model, batch), batch, len(batch["labels"]))
        if "reference" in batch:
            reference = batch["reference"]
            texts = generated(model, _source(batch), self.config, self._tokenizer, draw=False)
            scores["prediction"] = as_tensor(texts).to(reference.device)
            scores["reference"] = reference
        return scores

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, the share predicted right, and those of texts."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.metrics import token_metrics

        return with_text_metrics(token_metrics(), self.config)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return what is written for each source."""
        texts = generated(model, batch, self.config, self._tokenizer, draw=True)
        return [{"target": text} for text in texts]

    def _tokens(self, row: Row, limit: int | None, **text: str) -> dict[str, list[int]]:
        """Return tokens as the tokenizer writes a source (``text``) or a ``text_target``."""
        options: dict[str, Any] = {}
        if self.config.truncation and limit is not None:
            options = {"truncation": True, "max_length": limit}
        encoded = dict(self._tokenizer(**text, verbose=False, **options))
        check_length(len(encoded["input_ids"]), limit, row)
        return encoded

    def _labels(self, row: Row, limit: int | None, target: str) -> list[int]:
        ids = list(self._tokens(row, limit, text_target=target)["input_ids"])
        end = self._tokenizer.eos_token_id
        # a decoder that has not learned to end does not
        if end is not None and ids[-1:] != [end] and (limit is None or len(ids) < limit):
            ids.append(end)
        return ids

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of the targets' tokens, [N, V]."""
        network: Any = inner(model)
        read = network.prepare_decoder_input_ids_from_labels(labels=batch["labels"])
        return logits_at(model, batch["places"], **_source(batch), decoder_input_ids=read)


def _source(batch: Batch) -> dict[str, Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}
