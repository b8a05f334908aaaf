"""The contract of every task, on those of this plugin."""

from pathlib import Path

import pytest

from peftcore_train.task import Batch
from peftcore_train.testing import TaskContract

TEXTS = [
    "the film was great", "a dull story", "it was lovely and bright", "two people and a weak film",
    "fine", "the story of two people was boring", "a great film", "awful people of the film",
]  # fmt: skip


def split(column: str, **others: list) -> dict[str, list[dict]]:
    rows = [
        {column: text, **{name: values[i] for name, values in others.items()}}
        for i, text in enumerate(TEXTS)
    ]
    return {"train": rows, "validation": rows[:5], "test": rows[3:]}


def talks() -> dict[str, list[dict]]:
    answers = ["great fine", "dull", "awful", "it"] * 2
    given = split("text", answer=answers)
    turns = ("user", "text"), ("assistant", "answer"), ("user", "text"), ("assistant", "answer")
    return {
        name: [
            {"messages": [{"role": role, "content": row[column]} for role, column in turns]}
            for row in rows
        ]
        for name, rows in given.items()
    }


class TestSequenceClassification(TaskContract):
    task = "sequence-classification"
    rows = split("text", label=["good", "bad"] * 4)
    answers = ("label",)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert


class TestPairsOfThreeLabels(TestSequenceClassification):
    config = {"text_column": "one", "pair_column": "other", "label_column": "kind"}
    rows = split("one", other=TEXTS[::-1], kind=[0, 1, 2, 0, 1, 2, 0, 1])
    answers = ("kind",)


class TestSeveralLabels(TestSequenceClassification):
    config = {"multi_label": True, "threshold": {"film": 0.4}}
    rows = split("text", label=[
        [word for word in ("film", "people", "story") if word in text] for text in TEXTS
    ])  # fmt: skip
    empty = ("label",)
    learning_rate = 3e-3
    epochs = 12
    remembered = 0.8


class TestRegression(TaskContract):
    task = "regression"
    config = {"target_columns": ["stability", "score"]}
    rows = split(
        "text", stability=[61.5, -2, 3, 4.25, 80, 6, 7, 80], score=[1, 2, 2, 3, 1, 2, 3, 1]
    )
    answers = ("stability", "score")

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert


class TestTokenClassification(TaskContract):
    task = "token-classification"
    rows = split("tokens", labels=[
        " ".join("B-W" if word in ("film", "story", "people") else "O" for word in text.split())
        for text in TEXTS
    ])  # fmt: skip
    answers = ("labels",)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert

    def terms(self, batch: Batch, rows: int) -> float:
        return int((batch["labels"] != -100).sum())


class TestEmbedding(TaskContract):
    task = "embedding"
    config = {"negative_column": "negative", "temperature": 0.2}
    rows = split("anchor", positive=TEXTS[::-1], negative=TEXTS[3:] + TEXTS[:3])
    answers = ("positive", "negative")
    compares = True
    remembered = 0.7
    # there is no head, and the pooler is not read
    methods = ({"method": "probe", "targets": ["attention.*", "mlp.*"]},)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert


class TestQuestionAnswering(TaskContract):
    task = "question-answering"
    # what is about two people is longer than a window
    config = {"max_length": 12, "doc_stride": 3}
    rows = split("context", question=["film", "story", "bright film", "people"] * 2, answers=[
        {"text": [text.split()[0]], "answer_start": [0]} if i % 3 else
        {"text": [], "answer_start": []} for i, text in enumerate(TEXTS)
    ])  # fmt: skip
    answers = ("answers",)
    empty = ("answers",)
    learning_rate = 1e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["row"])


class TestMaskedLM(TaskContract):
    task = "masked-lm"
    rows = split("text")
    predicts = False
    # other tokens are masked in every epoch
    epochs = 10

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, bert: Path) -> Path:
        return bert

    def terms(self, batch: Batch, rows: int) -> float:
        return int((batch["labels"] != -100).sum())


class TestCausalLM(TaskContract):
    task = "causal-lm"
    config = {"max_new_tokens": 4}
    rows = split("prompt", completion=["great fine", "dull", "awful and weak", "it"] * 2)
    answers = ("completion",)

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, llama: Path) -> Path:
        return llama

    def terms(self, batch: Batch, rows: int) -> float:
        return int((batch["labels"] != -100).sum())


class TestConversations(TestCausalLM):
    """Two turns of the assistant in a row; the loss is on both, and rows are packed."""

    config = {
        "format": "messages",
        "packing": True,
        "max_new_tokens": 2,
        "generate_metrics": ["exact_match", "rouge_l", "bleu", "chrf"],
        "chat_template": "{{ bos_token }}{% for m in messages %} {{ m.content }}"
        "{% if m.role == 'assistant' %} {{ eos_token }}{% endif %}{% endfor %}",
    }
    rows = talks()
    epochs, learning_rate = 3, 1e-2
    answers = ()

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])


class TestSeq2Seq(TaskContract):
    task = "seq2seq"
    config = {"max_new_tokens": 2, "generate_metrics": ["rouge_l"]}
    rows = split("source", target=["great fine", "dull", "awful and weak", "it"] * 2)
    answers = ("target",)
    epochs, learning_rate = 2, 1e-2

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, t5: Path) -> Path:
        return t5

    def terms(self, batch: Batch, rows: int) -> float:
        return len(batch["targets"])


class TestPreference(TaskContract):
    task = "preference"
    config = {"max_new_tokens": 2, "beta": 0.5}
    epochs, learning_rate = 2, 1e-2
    rows = split(
        "prompt", chosen=["great", "fine film", "a film", "it"] * 2, rejected=["weak", "of"] * 4
    )
    answers = ("chosen", "rejected")

    @pytest.fixture(scope="class")
    @classmethod
    def source(cls, llama: Path) -> Path:
        return llama
