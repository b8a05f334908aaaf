"""Sequence to sequence: what the decoder learns, and the loss of the model itself."""

import pytest
import torch

from peftcore import ConfigError, DataError, attach, backbone_named
from peftcore.testing import perturb
from peftcore_train.data import Row
from peftcore_train.tasks.seq2seq import Seq2Seq, Seq2SeqConfig

ROWS = [
    Row({"source": "the film was fine", "target": "great"}, "x:1"),
    Row({"source": "it", "target": "a story of two people"}, "x:2"),
]


@pytest.fixture
def loaded(t5):
    return backbone_named("t5").load(str(t5), head="seq2seq-lm")


def test_the_loss_is_that_of_the_model(loaded):
    task = Seq2Seq(Seq2SeqConfig())
    perturb(attach(loaded.model, "lora"))
    batch = task.collate([task.encode(row, loaded) for row in ROWS])
    given = {k: batch[k] for k in ("input_ids", "attention_mask", "labels")}
    torch.testing.assert_close(task.loss(loaded.model, batch), loaded.model(**given).loss)
    end = loaded.tokenizer.eos_token_id
    assert [row[row != -100][-1] for row in batch["labels"]] == [end, end]


def test_bart_shifts_its_labels_in_its_own_way():
    torch.manual_seed(0)
    backbone = backbone_named("bart")
    model = backbone.tiny(head="seq2seq-lm")
    batch = backbone.batch(model)
    from peftcore_train.logits import targets_of

    ours = Seq2Seq(Seq2SeqConfig()).loss(model, batch | targets_of(batch["labels"], shift=0))
    torch.testing.assert_close(ours, model(**batch).loss)


def test_sources_and_targets_are_cut_or_refused(loaded):
    with pytest.raises(DataError, match="x:2: 6 tokens, but only 4 fit"):
        Seq2Seq(Seq2SeqConfig(max_target_length=4)).encode(ROWS[1], loaded)
    task = Seq2Seq(Seq2SeqConfig(max_length=3, max_target_length=4, truncation=True))
    found = [task.encode(row, loaded) for row in ROWS]
    assert [len(row["input_ids"]) for row in found] == [3, 2]
    assert [len(row["labels"]) for row in found] == [2, 4]
    task = Seq2Seq(Seq2SeqConfig(source_prefix="two "))
    words = loaded.tokenizer.convert_ids_to_tokens(task.encode(ROWS[1], loaded)["input_ids"])
    assert words == ["two", "it", "</s>"]


def test_a_decoder_alone_is_refused(llama):
    alone = backbone_named("llama").load(str(llama), head="causal-lm")
    with pytest.raises(ConfigError, match="LlamaForCausalLM does not say what its decoder reads"):
        Seq2Seq(Seq2SeqConfig()).build(alone)
