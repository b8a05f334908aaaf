"""The loss, the contrast, the vote, and what enters the input."""

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from peftcore import ConfigError, DataError, attach, backbone_named, validated
from peftcore.testing import perturb
from peftcore_biomedqa.config import BiomedicalQAConfig
from peftcore_biomedqa.contrast import info_nce
from peftcore_biomedqa.prompted import Prompted
from peftcore_biomedqa.task import BiomedicalQA
from peftcore_biomedqa.votes import vote
from peftcore_train.data import Row
from peftcore_train.schema import DataSection

ONE = {"templates": ("ask {question} {context}",), "contrast": 0.0}
ROWS = [
    Row({"question": "does the gene grow", "context": "it does in mice", "label": "yes"}, "x:1"),
    Row({"question": "does it help", "context": "people harm", "label": "maybe"}, "x:2"),
]


@pytest.fixture(scope="module")
def loaded(t5: Path) -> Any:
    found = backbone_named("t5").load(str(t5), head="seq2seq-lm")
    perturb(attach(found.model, "lora"))
    return found


def batch_of(task: BiomedicalQA, loaded: Any) -> dict:
    return task.collate([task.encode(row, loaded) for row in ROWS])


def test_one_template_without_contrast_is_plain_cross_entropy(loaded: Any) -> None:
    task = BiomedicalQA(BiomedicalQAConfig(**ONE))
    batch = batch_of(task, loaded)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    first = torch.zeros(2, 1, dtype=torch.long)
    logits = loaded.model(**given, decoder_input_ids=first).logits[:, 0]
    words = loaded.tokenizer.convert_tokens_to_ids(["yes", "no", "maybe"])
    expected = F.cross_entropy(logits[:, words], torch.tensor([0, 2]))
    torch.testing.assert_close(task.loss(loaded.model, batch), expected)


def test_templates_are_averaged_and_the_contrast_is_added_with_its_weight(loaded: Any) -> None:
    templates = ("ask {question} {context}", "{context} {question}", "{question}")
    alone = [BiomedicalQA(BiomedicalQAConfig(templates=(one,), contrast=0.0)) for one in templates]
    mean = sum(task.loss(loaded.model, batch_of(task, loaded)) for task in alone) / 3
    for state in ("encoder", "decoder"):
        config = BiomedicalQAConfig(templates=templates, contrast=0.7, contrast_state=state)
        task = BiomedicalQA(config)
        batch = batch_of(task, loaded)
        _, states = task._read(loaded.model, batch)
        expected = mean + 0.7 * info_nce(states, batch["target"], 0.1)
        torch.testing.assert_close(task.loss(loaded.model, batch), expected)
        assert states.shape == (2, 3, 32)


@pytest.mark.parametrize("same_label", [True, False])
def test_info_nce_is_what_a_loop_says(same_label: bool) -> None:
    torch.manual_seed(0)
    states, labels = torch.randn(4, 3, 5), torch.tensor([0, 1, 0, 2])
    places = [*itertools.product(range(4), range(3))]
    total = 0.0
    for i, p in places:
        cosines = {
            (j, q): math.exp(float(F.cosine_similarity(states[i, p], states[j, q], dim=0)) / 0.2)
            for j, q in places
            if (j, q) != (i, p)
        }
        alike = [
            place for place in cosines
            if place[0] == i or (same_label and labels[place[0]] == labels[i])
        ]  # fmt: skip
        total += sum(-math.log(cosines[place] / sum(cosines.values())) for place in alike) / len(
            alike
        )
    found = info_nce(states, labels, 0.2, same_label=same_label)
    assert float(found) == pytest.approx(total / len(places), rel=1e-5)


def test_a_batch_in_which_nothing_is_alike_has_no_contrast() -> None:
    states = torch.randn(2, 1, 4, requires_grad=True)
    loss = info_nce(states, torch.tensor([0, 1]), 0.1)
    loss.backward()
    assert float(loss.detach()) == 0 and states.grad is not None and not states.grad.any()


@pytest.mark.parametrize(
    ("templates", "winner", "counts"),
    [
        ([[0.6, 0.3, 0.1], [0.5, 0.4, 0.1], [0.1, 0.8, 0.1]], 0, [2, 1, 0]),
        # a majority wins against the larger sum
        ([[0.51, 0.49, 0.0], [0.51, 0.49, 0.0], [0.0, 1.0, 0.0]], 0, [2, 1, 0]),
        # a tie goes to the larger sum
        ([[0.6, 0.4, 0.0], [0.2, 0.8, 0.0]], 1, [1, 1, 0]),
        ([[0.6, 0.1, 0.3], [0.1, 0.6, 0.3], [0.2, 0.3, 0.5]], 2, [1, 1, 1]),
        # and a tie of both to the first label
        ([[0.7, 0.3, 0.0], [0.3, 0.7, 0.0]], 0, [1, 1, 0]),
        ([[0.2, 0.3, 0.5]], 2, [0, 0, 1]),
    ],
)
def test_templates_vote(templates: list, winner: int, counts: list[int]) -> None:
    found = vote(torch.tensor([templates]).log().clamp(min=-50))
    assert int(found.winner) == winner and found.counts.tolist() == [counts]
    mean = torch.tensor(templates, dtype=torch.float64).mean(0)
    torch.testing.assert_close(found.probabilities[0], mean, atol=1e-6, rtol=0)


def test_draws_vote_too_by_their_shares() -> None:
    logits = torch.tensor([[[0.6, 0.3, 0.1]]]).log()
    chance = torch.tensor([[[0.0, 0.59, 0.61, 0.89, 0.91, 0.99]]])
    assert vote(logits, chance).counts.tolist() == [[3, 2, 2]]
    cold = vote(logits, chance, temperature=0.1)
    assert cold.counts.tolist() == [[7, 0, 0]], "a low temperature draws the likeliest"


def test_the_long_answer_never_enters_the_input(pubmedqa: Any, t5: Path) -> None:
    loaded = backbone_named("t5").load(str(t5), head="seq2seq-lm")
    task = BiomedicalQA(BiomedicalQAConfig(corpus="pubmedqa"))
    seen: list[str] = []
    task.encode(ROWS[0], loaded)
    tokens, written = task._tokens, task._written

    def told(text: str) -> list[int]:
        seen.append(text)
        return tokens(text)

    task._tokens = told  # type: ignore[method-assign]
    root = pubmedqa()
    for split in ("train", "validation", "test"):
        for row in task.read(DataSection(source=str(root)), split):
            assert "LEAKED" not in str(row.values)
            task.encode(row, loaded)
    assert len(seen) >= 3 * 120 and written is not None
    assert all("it does in mice" in text and "LEAKED" not in text for text in seen)
    # nor from a row that has such a column, as one to predict may
    row = Row({**ROWS[0].values, "LONG_ANSWER": "LEAKED", "ideal_answer": "LEAKED"}, "x:1")
    task.encode(row, loaded, labelled=False)
    assert not any("LEAKED" in text for text in seen)


def test_a_context_that_is_too_long_is_cut_and_the_question_stays(t5: Path) -> None:
    loaded = backbone_named("t5").load(str(t5), head="seq2seq-lm")
    row = Row({**ROWS[0].values, "context": "it does in mice " * 50}, "x:1")
    long = {**ONE, "templates": ("ask {context} {question}",), "max_length": 20}
    with pytest.raises(DataError, match="x:1: 206 tokens, but only 20 fit"):
        BiomedicalQA(BiomedicalQAConfig(**long)).encode(row, loaded)
    features = BiomedicalQA(BiomedicalQAConfig(**long, truncation=True)).encode(row, loaded)
    (ids,) = (one["input_ids"] for one in features["templates"])
    words = loaded.tokenizer.convert_ids_to_tokens(ids)
    assert features["cut"] and len(words) == 20
    assert words[-5:] == ["does", "the", "gene", "grow", "</s>"]


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"yes": "yes it does", "no": "no"}, "is not one token of .* but 'yes it does'"),
        ({"yes": "absolutely", "no": "no"}, "'absolutely', the word of yes, is not one token"),
        ({"yes": "no", "no": "no"}, "no and yes have the same word"),
    ],
)
def test_a_label_whose_word_is_not_one_token_is_refused(
    labels: dict, sentence: str, loaded: Any
) -> None:
    task = BiomedicalQA(BiomedicalQAConfig(labels=labels))
    with pytest.raises(ConfigError, match=sentence):
        task.encode(ROWS[0], loaded)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"templates": ["{context}"]}, "has no {question}"),
        ({"part": "artificial"}, "write corpus: pubmedqa"),
        ({"corpus": "pubmedqa", "part": "unlabelled"}, "pseudo_labels goes with part: unlabelled"),
        ({"contrast": 0, "contrast_state": "decoder"}, "contrast above 0"),
    ],
)
def test_fields_that_do_not_go_together_are_refused(config: dict, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        validated(BiomedicalQAConfig, config, where="task", label="biomedical-qa")
    assert sentence in str(caught.value)


def test_a_soft_prompt_stands_in_front_and_alone_changes_what_is_read(t5: Path) -> None:
    loaded = backbone_named("t5").load(str(t5), head="seq2seq-lm")
    torch.manual_seed(0)
    task = BiomedicalQA(BiomedicalQAConfig(**ONE, soft_prompt=3))
    model = task.build(loaded)
    assert isinstance(model, Prompted) and model.prompt.weight.shape == (3, 32)
    batch = batch_of(task, loaded)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    first = torch.zeros(2, 1, dtype=torch.long)
    with torch.no_grad():
        model.prompt.weight.copy_(loaded.model.shared.weight[3:6])
        found = model(**given, decoder_input_ids=first)
        ids = torch.cat([torch.tensor([[3, 4, 5]] * 2), batch["input_ids"]], 1)
        mask = torch.cat([torch.ones(2, 3, dtype=torch.long), batch["attention_mask"]], 1)
        expected = loaded.model(ids, attention_mask=mask, decoder_input_ids=first)
    torch.testing.assert_close(found.logits, expected.logits)
