"""Packed rows, and logits of some places alone: the same numbers as without."""

from types import SimpleNamespace

import pytest
import torch

from peftcore import AttachError, attach, backbone_named
from peftcore.testing import perturb
from peftcore_train.data import Row
from peftcore_train.logits import logits_at, targets_of
from peftcore_train.packing import bins, packed
from peftcore_train.tasks.causal_lm import CausalLM, CausalLMConfig

LENGTHS = (9, 4, 6, 2, 3)


def rows(seed: int = 0) -> list[dict]:
    """Return encoded rows of unequal lengths, whose second part is labelled."""
    chance = torch.Generator().manual_seed(seed)
    out = []
    for length in LENGTHS:
        ids = torch.randint(5, 90, (length,), generator=chance).tolist()
        begins = max(1, length // 2)
        labels = [-100] * begins + ids[begins:]
        mask = [1] * length
        out.append(
            {"input_ids": ids, "attention_mask": mask, "labels": labels, "prompt_length": begins}
        )
    return out


def task(**config):
    made = CausalLM(CausalLMConfig(**config))
    made._tokenizer = SimpleNamespace(pad_token_id=0, pad_token_type_id=0)
    return made


def model_of(family: str):
    torch.manual_seed(0)
    return backbone_named(family).tiny(head="causal-lm")


def test_rows_share_a_row_that_is_no_longer_than_the_longest():
    assert bins(LENGTHS) == [[0], [2, 4], [1, 3]]
    batch = packed(rows())
    assert batch["input_ids"].shape == (3, 9)
    assert batch["position_ids"].tolist()[1] == [0, 1, 2, 3, 4, 5, 0, 1, 2]
    assert batch["position_ids"].tolist()[2] == [0, 1, 2, 3, 0, 1, 0, 1, 2]
    assert batch["labels"].tolist()[2][6:] == [-100] * 3
    assert batch["sequence_rows"].tolist()[1] == [2] * 6 + [4] * 3


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma"])
def test_packed_logits_are_those_of_each_row_alone(family):
    model, given = model_of(family), rows()
    batch = packed(given)
    with torch.no_grad():
        logits = model(
            batch["input_ids"], position_ids=batch["position_ids"], use_cache=False
        ).logits
        for number, row in enumerate(given):
            found = logits[_place(batch, number, len(row["input_ids"]))]
            alone = model(torch.tensor([row["input_ids"]])).logits[0]
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def _place(batch, number, length):
    """Return where a row of the five lies in the packed ones, by its positions."""
    line, group = next((i, g) for i, g in enumerate(bins(LENGTHS)) if number in g)
    before = sum(LENGTHS[i] for i in group[: group.index(number)])
    return line, slice(before, before + length)


@pytest.mark.parametrize(
    "method", ["lora", {"method": "loreft", "rank": 2, "positions": "f1+l2"}, "prefix"]
)
def test_loss_and_scores_are_those_of_padded_rows(method):
    model = model_of("llama")
    perturb(attach(model, method))
    losses, scores = [], []
    for packing in (False, True):
        made = task(packing=packing)
        batch = made.collate(rows())
        with torch.no_grad():
            losses.append(made.loss(model, batch))
            scores.append(made.score(model, batch))
    torch.testing.assert_close(losses[0], losses[1], atol=1e-6, rtol=1e-6)
    assert scores[0].keys() == scores[1].keys()
    for name, value in scores[0].items():
        torch.testing.assert_close(scores[1][name], value, atol=1e-5, rtol=1e-5)


def test_a_method_that_stands_in_front_of_a_row_refuses_packed_ones():
    model = model_of("llama")
    attach(model, "prompt")
    made = task(packing=True)
    with pytest.raises(AttachError, match="prompt needs one sequence in each row"):
        made.loss(model, made.collate(rows()))


@pytest.mark.parametrize(
    ("family", "head", "shift"), [("gpt2", "causal-lm", 1), ("bert", "masked-lm", 0)]
)
def test_logits_of_some_places_are_those_of_all(family, head, shift):
    backbone = backbone_named(family)
    torch.manual_seed(0)
    model = backbone.tiny(head=head)
    batch = backbone.batch(model, rows=3)
    labels = batch.pop("labels")
    wanted = labels != -100
    logits = model(**batch).logits
    logits = logits[:, :-1][wanted[:, 1:]] if shift else logits[wanted]
    targets = targets_of(labels, shift=shift)
    torch.testing.assert_close(targets["targets"], labels[:, shift:][wanted[:, shift:]])
    seen: list[int] = []
    head_layer = model.get_output_embeddings()
    head_layer.register_forward_hook(lambda _, args, __: seen.append(args[0].shape[1]))
    found = logits_at(model, targets["places"], **batch)
    torch.testing.assert_close(found, logits, atol=1e-6, rtol=1e-6)
    assert seen == [len(found)]
    # a model that does not tell its output layer
    model.get_output_embeddings = lambda: None
    torch.testing.assert_close(logits_at(model, targets["places"], **batch), logits)


def test_plain_text_is_learned_whole_and_ends(llama):
    loaded = backbone_named("llama").load(str(llama), head="causal-lm")
    made = CausalLM(CausalLMConfig(format="text", packing=True))
    features = made.encode(Row({"text": "the film was fine"}, "x.txt:1"), loaded)
    assert features["labels"] == features["input_ids"]
    assert features["input_ids"][-1] == loaded.tokenizer.eos_token_id
    batch = made.collate([features, features])
    assert batch["input_ids"].shape == (2, 5) and len(batch["targets"]) == 2 * 4
