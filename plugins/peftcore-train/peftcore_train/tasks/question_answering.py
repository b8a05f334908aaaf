"""Question answering by extraction: the answer is a part of the context (Rajpurkar et al. 2016)."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from peftcore import Loaded, Strict
from peftcore_train.data import Columns, Row
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.answers import Answer, answers_of, check_answers
from peftcore_train.tasks.windows import best_spans, windows_of
from peftcore_train.text import fills, padded, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: What a window says of each of its tokens, besides the model's inputs.
_PLACES = ("in_context", "begins", "stops")


class QuestionAnsweringConfig(Strict):
    """The ``task`` section of question answering."""

    question_column: str = Field("question", description="Column of the question.")
    context_column: str = Field("context", description="Column of the text with the answer.")
    answers_column: str = Field(
        "answers",
        description="Column of the answers as in SQuAD, `{text: [...], answer_start: [...]}`; or of"
        " one answer as a text, empty for none.",
    )
    start_column: str | None = Field(
        None,
        description="Column of the character of the context, from 0, at which an answer that is a"
        " text begins; without it the answer must occur once.",
    )
    max_length: int | None = Field(
        None, ge=8, description="Most tokens of a window; what the model takes, if not given."
    )
    doc_stride: int = Field(
        128,
        ge=0,
        description="Tokens that neighbouring windows of a long context share; at most half of what"
        " fits beside the question.",
    )
    max_answer_tokens: int = Field(30, ge=1, description="Most tokens of an answer that is given.")
    no_answer: bool | None = Field(
        None,
        description="Whether there may be no answer (SQuAD 2); whether training rows have none.",
    )


class QuestionAnswering(Task):
    """Cross-entropy of the answer's first and last token, in each window of the context."""

    head = "question-answering"
    modules_to_save = ("head",)
    default_metric = "f1"
    metric_names: Mapping[str, bool] = {"loss": False, "exact_match": True, "f1": True}

    def __init__(self, config: QuestionAnsweringConfig):
        super().__init__(config)
        self.no_answer: bool | None = config.no_answer
        self._tokenizer: Any = None

    def learn(self, rows: Sequence[Row]) -> None:
        """Take from the training rows whether there may be no answer."""
        if self.no_answer is None:
            self.no_answer = not all(self._answers(row) for row in rows)

    @property
    def needs_rows(self) -> bool:
        """Whether the head depends on the rows; it does not."""
        return False

    def learned(self) -> dict[str, Any]:
        """Return whether there may be no answer."""
        return {"no_answer": self.no_answer}

    def columns(self) -> Columns:
        """Return the columns of question and context, and those of the answers."""
        config = self.config
        start = (config.start_column,) if config.start_column else ()
        return Columns(
            (config.question_column, config.context_column), (config.answers_column, *start)
        )

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has a question, and a context that holds its answers."""
        for row in rows:
            row.text(self.config.question_column)
            row.text(self.config.context_column)
            check_answers(self._answers(row), row, none=bool(self.no_answer))

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the windows of the context, each with the question, and the answer in them."""
        self._tokenizer = tokenizer_of(loaded)
        answers = self._answers(row) if labelled else []
        windows = windows_of(self.config, row, loaded, answers[:1])
        features: Features = {
            "windows": windows,
            "context": row.text(self.config.context_column),
            "length": max(len(window["input_ids"]) for window in windows),
        }
        # nothing said is the right answer where there is none
        known = [answer.text for answer in answers] or [""]
        return {**features, "answers": known} if labelled else features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Put the windows of all rows under one another, padded on the right."""
        windows = [window for row in rows for window in row["windows"]]
        batch: Batch = dict(
            padded(windows, {**fills(self._tokenizer, windows), **dict.fromkeys(_PLACES, 0)})
        )
        batch["start"] = torch.tensor([window["start"] for window in windows])
        batch["end"] = torch.tensor([window["end"] for window in windows])
        counts = torch.tensor([len(row["windows"]) for row in rows])
        batch["row"] = torch.arange(len(rows)).repeat_interleave(counts)
        batch["contexts"] = [row["context"] for row in rows]
        batch["answers"] = [row.get("answers") for row in rows]
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the windows."""
        return self._losses(self._logits(model, batch), batch).mean()

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return exact match and F1 of each row, and the summed loss of its windows."""
        # as for metrics
        from peftcore_train.squad import exact_and_f1

        logits = self._logits(model, batch)
        losses = self._losses(logits, batch)
        rows, row = len(batch["contexts"]), batch["row"]
        found = [one["answer"] for one in self._found(logits, batch)]
        exact, f1 = exact_and_f1(found, batch["answers"])
        return {
            "exact": exact.to(losses),
            "overlap": f1.to(losses),
            "loss": losses.new_zeros(rows).index_add(0, row, losses),
            "count": losses.new_zeros(rows).index_add(0, row, torch.ones_like(losses)),
        }

    def metrics(self) -> "MetricCollection":
        """Return loss, exact match and F1 of words, as SQuAD normalises them."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_train.squad import answer_metrics

        return answer_metrics()

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return the answer, its place in the context, and the sum of its two logits."""
        return self._found(self._logits(model, batch), batch)

    def _answers(self, row: Row) -> list[Answer]:
        return answers_of(
            row, self.config.answers_column, self.config.start_column, self.config.context_column
        )

    def _logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits of first and last token, [W, L, 2]."""
        names = fills(self._tokenizer, [batch])
        out = model(**{name: batch[name] for name in names})
        return torch.stack([out.start_logits, out.end_logits], -1).float()

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        """Return the loss of each window; the padding is no place for an answer."""
        open_ = logits.masked_fill(batch["attention_mask"][..., None] == 0, -1e9)
        start = F.cross_entropy(open_[..., 0], batch["start"], reduction="none")
        return (start + F.cross_entropy(open_[..., 1], batch["end"], reduction="none")) / 2

    def _found(self, logits: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return the best span over the windows of each row, or none."""
        best = best_spans(logits, batch["in_context"].bool(), self.config.max_answer_tokens)
        nothing = (logits[:, 0, 0] + logits[:, 0, 1]).tolist()
        found: list[dict[str, Any]] = []
        for row, context in enumerate(batch["contexts"]):
            windows = (batch["row"] == row).nonzero().flatten().tolist()
            window = max(windows, key=lambda i: best[i][0])
            score, first, last = best[window]
            lowest = min(nothing[i] for i in windows)
            if self.no_answer and lowest > score:
                found.append({"answer": "", "start": None, "end": None, "score": lowest})
                continue
            start = int(batch["begins"][window, first])
            end = int(batch["stops"][window, last])
            text = context[start:end]
            found.append({"answer": text, "start": start, "end": end, "score": score})
        return found
