"""Reasoning: the commonsense and arithmetic sets, and their answers in what a model writes."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from peftcore import DataError, Loaded, nearest
from peftcore_reasoning.extraction import Paper, answer_in, is_right
from peftcore_reasoning.instructed import Instructed, InstructedConfig
from peftcore_reasoning.sets import (
    INSIDE_MAWPS,
    SET,
    SETS,
    TRIGGER,
    Answers,
    SetName,
    answers_like,
    file_of_set,
    leaked,
    refusal_of,
    rows_of_file,
)
from peftcore_train.data import Columns, Row, drawn, report
from peftcore_train.generation import as_tensor, as_texts
from peftcore_train.schema import DataSection, Split
from peftcore_train.task import Batch, Features

if TYPE_CHECKING:
    from torchmetrics import MetricCollection


class ReasoningConfig(InstructedConfig):
    """The ``task`` section of reasoning."""

    training: str | None = Field(
        None,
        description="Training set below data.source, such as `commonsense_170k` or `math_10k`:"
        " `ft-training_set/NAME.json`, `NAME.json` or `NAME/train.json`. Without, data.source has"
        " files of splits.",
    )
    tests: tuple[SetName, ...] = Field(
        (), description="Sets that are scored: `dataset/NAME/test.json` or `NAME/test.json`."
    )
    validation_rows: int = Field(
        120, ge=1, description="Rows of the training set that are held back for validation."
    )
    answer_column: str = Field("answer", description="Column of the answer alone.")
    extraction: Paper = Field(
        "loreft",
        description="How an answer is found in a text: `loreft` compares all that follows `the"
        " correct answer is `, `llm_adapters` takes the first word of the set's.",
    )
    generate: bool = Field(
        True, description="Write an answer for every row that is scored; without, only the loss."
    )

    @model_validator(mode="after")
    def _sets_go_together(self) -> "ReasoningConfig":
        if (self.training is None) == bool(self.tests):
            raise ValueError("training and tests go together: what is learned, and what is scored")
        if len(set(self.tests)) < len(self.tests):
            raise ValueError("tests names a set twice")
        return self

    @model_validator(mode="after")
    def _nothing_leaks(self) -> "ReasoningConfig":
        if bad := leaked(self.training, self.tests):
            raise ValueError(
                f"{self.training} holds items of MAWPS, which {', '.join(INSIDE_MAWPS)} are parts"
                f" of, so that {', '.join(bad)} would be scored on what was learned. Take them out"
                " of tests, or train on math_7k, from which the authors took MAWPS out"
            )
        return self


class Reasoning(Instructed):
    """Learns to write answers; scores those that are found in what the model writes."""

    def __init__(self, config: ReasoningConfig):
        super().__init__(config)
        answers = {"accuracy": True, "unanswered": False} if config.generate else {}
        if config.generate and len(config.tests) > 1:
            answers |= {"average": True}
            answers |= {f"accuracy_of.{name}": True for name in config.tests}
        self.metric_names = {"loss": False, "perplexity": False, **answers}
        self.default_metric = "accuracy" if config.generate else "loss"

    @property
    def writes(self) -> bool:
        """Whether an answer is written for every row that is scored."""
        return bool(self.config.generate)

    def columns(self) -> Columns:
        """Return the columns of the prompt, and those of what is learned and scored."""
        output = self.config.output_column
        answers = (output, self.config.answer_column)
        return Columns(self.inputs, answers, optional=(*self.inputs[1:], output))

    def read(
        self, data: DataSection, split: Split, problems: list[DataError] | None = None
    ) -> list[Row]:
        """Return the rows of a split, from the files of sets where the recipe names sets."""
        if self.config.training is None:
            return super().read(data, split, problems)
        found: list[DataError] = []
        rows = self._of_sets(data, split, found)
        report(found, problems)
        return drawn(rows, data, split)

    def check(self, rows: Sequence[Row]) -> None:
        """Check that every row has an instruction, and an answer of its set."""
        for row in rows:
            self.prompt(row)
            self.completion(row)
            name = row.values.get(SET, "")
            if wrong := refusal_of(self.answer(row), SETS.get(name), name):
                raise DataError(f"{row.where}: the answer {wrong}.")

    def answer(self, row: Row) -> str:
        """Return the answer of a row; a number is one as well.

        Raises:
            DataError: there is none.
        """
        value = row.column(self.config.answer_column)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
        return row.text(self.config.answer_column).strip()

    def completion(self, row: Row) -> str:
        """Return what is to be learned: the set's output, or where it has none the answer.

        The test set of mawps has no outputs.
        """
        value = row.column(self.config.output_column)
        if not isinstance(value, str):
            column = self.config.output_column
            raise DataError(f"{row.where}: column {column!r} holds {value!r}, which is no text.")
        if value.strip():
            return value
        answer = self.answer(row)
        answers = self._answers(row.values.get(SET, ""), answer)
        return TRIGGER + answer if answers and answers.kind == "choice" else answer

    def encode(self, row: Row, loaded: Loaded, *, labelled: bool = True) -> Features:
        """Return the tokens of a row, and its answer where one is to be found."""
        features = super().encode(row, loaded, labelled=labelled)
        if labelled and self.writes:
            gold, name = self.answer(row), row.values.get(SET, "")
            self._check_room(row, self._answers(name, gold))
            place = self.config.tests.index(name) if name in self.config.tests else -1
            features |= {"gold": gold, "set": place}
        return features

    def collate(self, rows: list[Features]) -> Batch:  # type: ignore[override]
        """Return a batch with the answers, and the numbers of the sets."""
        batch = super().collate(rows)
        if "gold" in rows[0]:
            batch["gold"] = as_tensor([row["gold"] for row in rows])
            batch["set"] = torch.tensor([row["set"] for row in rows])
        return batch

    def score(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Return losses, and of each row whether an answer was found and is right."""
        scores = super().score(model, batch)
        if not self.writes:
            return scores
        right, none = [], []
        golds, places = as_texts(batch["gold"]), batch["set"].tolist()
        for text, gold, place in zip(self.written(model, batch), golds, places, strict=True):
            answers = self._answers(self.config.tests[place] if place >= 0 else "", gold)
            found = answer_in(text, answers, self.config.extraction)
            right.append(float(is_right(found, gold, answers)))
            none.append(float(not found))
        scores["right"] = scores["loss"].new_tensor(right)
        scores["unanswered"] = scores["loss"].new_tensor(none)
        scores["set"] = batch["set"]
        return scores

    def metrics(self) -> "MetricCollection":
        """Return loss and perplexity of a token, and the share of right answers."""
        # seconds of imports, which nothing but scoring needs
        from torchmetrics import MetricCollection

        from peftcore_reasoning.metrics import AnswersRight, MeanOfSets, RightOfSets, Unanswered
        from peftcore_train.metrics import MeanLoss, Perplexity

        found: dict[str, Any] = {"loss": MeanLoss(), "perplexity": Perplexity()}
        if self.writes:
            found |= {"accuracy": AnswersRight(), "unanswered": Unanswered()}
        if "average" in self.metric_names:
            tests = self.config.tests
            found |= {"average": MeanOfSets(len(tests)), "accuracy_of": RightOfSets(tests)}
        return MetricCollection(found, compute_groups=False)

    def _of_sets(self, data: DataSection, split: Split, found: list[DataError]) -> list[Row]:
        config, root = self.config, Path(data.source).expanduser()
        if not root.is_dir():
            beside = [p.name for p in root.parent.glob("*")] if root.parent.is_dir() else []
            raise DataError(f"data.source {root}: no such folder.{nearest(root.name, beside)}")
        if split == "test":
            files = [(file_of_set(root, name, "test"), name) for name in config.tests]
            return [row for pair in files for row in rows_of_file(*pair, found)]
        name = Path(config.training).name.removesuffix(".json")
        rows = rows_of_file(file_of_set(root, name, "train"), name, found)
        if len(rows) <= config.validation_rows:
            found.append(
                DataError(
                    f"{name} has {len(rows)} rows, and task.validation_rows holds back"
                    f" {config.validation_rows}; lower it."
                )
            )
            return rows
        held = set(random.Random(data.seed).sample(range(len(rows)), config.validation_rows))
        return [row for i, row in enumerate(rows) if (i in held) == (split == "validation")]

    def _answers(self, name: str, answer: str) -> Answers | None:
        return SETS[name] if name in SETS else answers_like(answer)

    def _check_room(self, row: Row, answers: Answers | None) -> None:
        """Raise DataError where a word that is to be chosen has too many tokens to be written."""
        if answers is None or answers.kind != "choice":
            return
        said, most = self.completion(row), self.config.max_new_tokens
        count = len(self._tokenizer(said, add_special_tokens=False, verbose=False)["input_ids"])
        if count > most:
            raise DataError(
                f"{row.where}: the answer {said!r} is {count} tokens, more than task.max_new_tokens"
                f" ({most}), so that it could never be written. Raise it to {count} or more."
            )
