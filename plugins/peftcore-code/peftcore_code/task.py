"""Code review: whether a comment is needed, the comment, and the code after it."""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import DataError, Loaded, resolve_source
from peftcore_code import prompts
from peftcore_code.answers import says_yes
from peftcore_code.exercises import ANSWERS, INPUTS, TUFANO_INPUTS, Exercise, Reading, exercise
from peftcore_code.layouts import released
from peftcore_code.scores import scores_of
from peftcore_train.data import Columns, Row, drawn
from peftcore_train.generation import GenerationConfig, as_texts
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features, Task
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig
from peftcore_train.text import LengthConfig, most_tokens, tokenizer_of

if TYPE_CHECKING:
    from torchmetrics import MetricCollection

#: Scores of answers of yes and no, and of all other texts, with whether greater is better.
_OF_ANSWERS = {"f1": True, "precision": True, "recall": True, "unparsable": False}
_OF_TEXTS = {"bleu4": True, "bleu4_without_stop_words": True, "exact_match": True, "bleu": True}
#: Tokens that the ends of a prompt may be counted wrongly by.
_SLACK = 4


class CodeReviewConfig(GenerationConfig, LengthConfig):
    """The ``task`` section of code review."""

    action: prompts.Action = Field(
        "comment",
        description="What is learned: `necessity` (does a diff need a comment, yes or no),"
        " `comment` (from a diff), `refinement` (new code from old code and a comment), or to"
        " follow any `instruction`, as a stage before these.",
    )
    layout: Literal["codereviewer", "tufano"] | None = Field(
        None,
        description="How `data.source` is laid out, where it is a release: CodeReviewer's folders"
        " of JSONL, or one of Tufano's folders of TSV. Else rows have the columns `patch` and `y`;"
        " `patch` and `msg`; `old`, `comment` and `new`; or `instruction`, `input` and `output`.",
    )
    prompt: Literal["alpaca", "chat", "plain"] = Field(
        "alpaca",
        description="How the instruction is written: in Alpaca's layout, as a turn of the"
        " tokenizer's chat template, or as it is.",
    )
    instruction: str | None = Field(
        None, min_length=1, description="The instruction; each action has one of its own."
    )
    diff: Literal["plain", "tags"] = Field(
        "plain",
        description="How lines of code are written: as they are, with `+` and `-` in front in a"
        " diff; or as CodeReviewer does, in one line with `<add>`, `<del>` and `<keep>`.",
    )
    train_on_inputs: bool = Field(False, description="Put the loss on the prompt as well.")
    generate: bool = Field(
        True,
        description="Write an answer for every row that is scored, for all metrics but those of"
        " tokens; without, scoring is much faster.",
    )

    @model_validator(mode="after")
    def _layout_fits(self) -> "CodeReviewConfig":
        if self.layout is not None and self.action == "instruction":
            raise ValueError("layout: no release of code reviews holds instructions; leave it out")
        if self.layout == "tufano" and self.action == "necessity":
            raise ValueError("layout: tufano has no answers of yes and no; take codereviewer")
        return self

    @property
    def reading(self) -> Reading:
        """How rows are read."""
        return Reading(self.action, self.instruction, self.diff == "tags", self.layout)

    @property
    def writing(self) -> CausalLMConfig:
        """What a causal language model is told."""
        generation = {name: getattr(self, name) for name in GenerationConfig.model_fields}
        return CausalLMConfig(
            **generation,
            format="messages" if self.prompt == "chat" else "prompt",
            max_length=self.max_length,
            train_on_inputs=self.train_on_inputs,
            generate_metrics=("bleu",) if self.generate else (),
        )


class CodeReview(Task):
    """Next-token cross-entropy of the answer behind an instruction and code.

    LLaMA-Reviewer (Lu et al. 2023), whose own prompts and code are not public; the data, the tags
    and the scores are CodeReviewer's (Li et al. 2022).
    """

    head = CausalLM.head

    def __init__(self, config: CodeReviewConfig):
        super().__init__(config)
        self.writer = CausalLM(config.writing)
        scores = _OF_ANSWERS if config.action == "necessity" else _OF_TEXTS
        scores = scores if config.generate else {}
        self.metric_names = {"loss": False, "perplexity": False, "accuracy": True, **scores}

    def columns(self) -> Columns:
        """Return the columns of the action."""
        action, layout = self.config.action, self.config.layout
        inputs = INPUTS[action] if layout != "tufano" else TUFANO_INPUTS[action]
        answer = ANSWERS[action]
        return Columns(inputs, (answer,), answer if action == "necessity" else None)

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split of a release, or of any format."""
        layout = self.config.layout
        if layout is None:
            return super().read(data, split, problems)
        root = Path(resolve_source(data.source, "data") or data.source).expanduser()
        rows: list[Row] = []
        for one in released(layout, root, self.config.action, split, data):
            if isinstance(one, Row):
                rows.append(one)
            elif problems is None:
                raise one
            else:
                problems.append(one)
        return drawn(rows, data, split)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has what its action reads, and an answer."""
        for row in rows:
            self._exercise(row, labelled=True)

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of prompt and answer; of code that is too long the end is cut."""
        asked = self._exercise(row, labelled=labelled)
        kept = self._kept(asked, loaded, labelled=labelled)
        features = self.writer.encode(self._row(asked, kept, row), loaded, labelled=labelled)
        if kept < len(asked.lines):
            features["cut"] = True
        return features

    def collate(self, rows: Sequence[Features]) -> Batch:
        """Pad as causal language modelling does."""
        return self.writer.collate(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean loss of the answers' tokens."""
        return self.writer.loss(model, batch)

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return of each row the loss of its answer, and what the answer that is written is worth.

        The texts are there too, for sacrebleu's score, which is none of single texts.
        """
        scores = self.writer.score(model, batch)
        if self.config.generate:
            texts = as_texts(scores["prediction"]), as_texts(scores["reference"])
            device = scores["loss"].device
            found = scores_of(self.config.action, *texts)
            scores |= {name: torch.tensor(values, device=device) for name, values in found.items()}
        return scores

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, the share predicted right, and those of texts."""
        # seconds of imports, which nothing but scoring needs
        from peftcore_code.metrics import review_metrics

        return review_metrics(self.config.action, generate=self.config.generate)

    def predict(self, model: nn.Module, batch: Batch, loaded: Loaded) -> list[dict[str, Any]]:
        """Return what is written for each row, and of necessity whether that is a yes."""
        written = self.writer.predict(model, batch, loaded)
        if self.config.action != "necessity":
            return written
        return [
            {**answer, "needs_comment": bool(says_yes(answer["completion"]))} for answer in written
        ]

    def _exercise(self, row: Row, *, labelled: bool) -> Exercise:
        return exercise(row, self.config.reading, labelled=labelled)

    def _row(self, asked: Exercise, kept: int, row: Row) -> Row:
        """Return a row as causal language modelling reads it."""
        prompt = self._prompt(asked, kept)
        if self.config.prompt != "chat":
            return Row({"prompt": prompt, "completion": asked.answer}, row.where)
        turns = (("user", prompt), ("assistant", asked.answer))
        messages = [{"role": role, "content": text} for role, text in turns if text]
        return Row({"messages": messages}, row.where)

    def _prompt(self, asked: Exercise, kept: int) -> str:
        write = {"alpaca": prompts.alpaca, "chat": prompts.turn, "plain": prompts.plain}
        return write[self.config.prompt](asked.instruction, asked.given(kept))

    def _kept(self, asked: Exercise, loaded: Loaded, *, labelled: bool) -> int:
        """Return how many lines of code there is room for; all of them where nothing may be cut."""
        config, lines = self.config, len(asked.lines)
        limit = most_tokens(config.max_length, loaded)
        if not config.truncation or limit is None:
            return lines
        tokens = partial(_tokens, tokenizer_of(loaded))
        room = limit - (len(tokens(asked.answer)) if labelled else 0)
        if config.generate or not labelled:
            room = min(room, limit - config.max_new_tokens)

        def too_long(kept: int) -> bool:
            prompt = self._prompt(asked, kept)
            return len(tokens(prompt, chat=config.prompt == "chat")) + _SLACK > room

        # at least one line, so that what still does not fit is told as any other row is
        return max(1, bisect_left(range(1, lines + 1), True, key=too_long))


def _tokens(tokenizer: Any, text: str, *, chat: bool = False) -> list[int]:
    """Return the tokens of a text, or of a chat with that one turn."""
    if chat:
        turns = [{"role": "user", "content": text}]
        text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return list(tokenizer(text, verbose=False)["input_ids"])
