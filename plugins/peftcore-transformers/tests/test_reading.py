"""Reading checkpoints: what comes back, and one sentence for each kind of damage."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, BertTokenizer

from peftcore import ConfigError


def refused(family: Any, folder: Path, match: str, **options: Any) -> None:
    """Both ways of reading must say the same sentence, and it must match."""
    with pytest.raises(ConfigError, match=match) as whole:
        family.load(str(folder), **options)
    with pytest.raises(ConfigError) as on_meta:
        family.load_on_meta(str(folder), **options)
    assert str(on_meta.value) == str(whole.value)


@pytest.mark.parametrize("head", ["none", "masked-lm", "sequence-classification"])
def test_a_saved_model_comes_back_with_its_weights(head, encoder, save) -> None:
    folder = save(encoder, head)
    loaded = encoder.load(str(folder), head=head)
    torch.manual_seed(0)
    model = encoder.tiny(head=head)
    batch = encoder.batch(model)
    torch.testing.assert_close(loaded.model(**batch)[0], model(**batch)[0])
    assert loaded.fresh == () and loaded.source == str(folder)
    assert not loaded.model.training and loaded.tokenizer is None


def test_every_layout_of_the_weights_is_read(encoder, save, laid_out) -> None:
    folder = save(encoder, "masked-lm")
    before = encoder.load(str(folder), head="masked-lm").model.state_dict()
    laid_out(folder)
    after = encoder.load(str(folder), head="masked-lm").model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_what_the_checkpoint_lacks_is_told_as_fresh(encoder, save) -> None:
    folder = save(encoder, "masked-lm")
    pooler = ("pooler.dense.weight", "pooler.dense.bias")
    assert encoder.load(str(folder)).fresh == pooler
    loaded = encoder.load(str(folder), head="sequence-classification", num_labels=3)
    assert loaded.fresh == (
        *(f"bert.{name}" for name in pooler),
        "classifier.weight",
        "classifier.bias",
    )
    assert loaded.model.config.num_labels == 3


def test_a_head_of_another_size_starts_anew_when_asked_for(encoder, save) -> None:
    folder = str(save(encoder, "sequence-classification"))
    assert encoder.load(folder, head="sequence-classification").fresh == ()
    other = encoder.load(folder, head="sequence-classification", num_labels=5)
    assert other.fresh == ("classifier.weight", "classifier.bias")


def test_a_tied_output_layer_is_not_fresh(decoder, save) -> None:
    loaded = decoder.load(str(save(decoder, "causal-lm")), head="causal-lm")
    assert loaded.fresh == ()
    assert loaded.model.lm_head.weight is loaded.model.model.embed_tokens.weight


def test_the_dtype_is_the_checkpoints_or_the_one_asked_for(encoder, save, tmp_path) -> None:
    folder = str(save(encoder))
    assert encoder.load(folder, dtype="bfloat16").model.dtype == torch.bfloat16
    encoder.tiny().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert encoder.load(str(tmp_path / "half")).model.dtype == torch.bfloat16
    for wrong in ("int8", "nothing"):
        refused(encoder, Path(folder), f"dtype '{wrong}' is none of", dtype=wrong)


def test_a_tokenizer_beside_the_model_is_loaded(encoder, save) -> None:
    folder = save(encoder)
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (folder / "vocab.txt").write_text("\n".join(words))
    for loaded in (encoder.load(str(folder)), encoder.load_on_meta(str(folder))):
        assert isinstance(loaded.tokenizer, BertTokenizer)
        assert loaded.tokenizer("good")["input_ids"] == [2, 5, 3]


def test_a_damaged_tokenizer_is_told(encoder, save) -> None:
    folder = save(encoder)
    (folder / "tokenizer.json").write_text("{")
    refused(encoder, folder, "the tokenizer cannot be read")


# --- sources that are none ----------------------------------------------------------------------


def test_a_missing_folder_is_told(encoder, tmp_path) -> None:
    for source in (tmp_path / "nothing", "./nothing", "~/no/such/folder", "a/b/c"):
        refused(encoder, source, "does not exist")


def test_a_folder_without_config_and_a_file_are_told(encoder, tmp_path) -> None:
    refused(encoder, tmp_path, r"has no config\.json")
    file = tmp_path / "model.safetensors"
    file.touch()
    refused(encoder, file, "is a file")


def test_a_name_that_cannot_be_fetched_is_told(encoder, monkeypatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused(encoder, "no-such-bert", "is no folder here")


def test_a_model_of_another_family_is_told(encoder, decoder, save) -> None:
    refused(decoder, save(encoder), "type 'bert'; the backbone Decoder knows llama")


def test_a_family_recognises_its_own_checkpoints(encoder, decoder, save, tmp_path) -> None:
    folder = save(encoder)
    assert encoder.recognises(str(folder)) and not decoder.recognises(str(folder))
    (folder / "config.json").write_text("{")
    assert not encoder.recognises(str(folder))
    assert not encoder.recognises(str(tmp_path))
    assert not encoder.recognises(str(tmp_path / "nothing"))


def test_options_and_heads_that_there_are_not_come_at_once(encoder, save) -> None:
    with pytest.raises(ConfigError) as caught:
        encoder.load(str(save(encoder)), head="maskedlm", num_label=3, dtyp="bfloat16")
    problems = caught.value.problems
    assert [re.search(r"Did you mean (\S+)\?", p)[1] for p in problems] == [
        "num_labels", "dtype", "masked-lm",
    ]  # fmt: skip


# --- damage -------------------------------------------------------------------------------------


def test_a_damaged_config_is_told(encoder, save) -> None:
    folder = save(encoder)
    (folder / "config.json").write_text("{")
    refused(encoder, folder, r"config\.json cannot be read")


def test_a_value_that_no_config_can_have_is_told(encoder, save, edit) -> None:
    folder = save(encoder)
    edit(folder, hidden_size="wide")
    refused(encoder, folder, r"config\.json cannot be read.*hidden_size")


@pytest.mark.parametrize(
    ("keep", "sentence"),
    [
        (0, r"the header of model\.safetensors is damaged"),
        (7, r"the header of model\.safetensors is damaged"),
        (100, r"the header of model\.safetensors is damaged"),
        (20_000, r"model\.safetensors has 20,000 bytes instead of 9\d,\d+"),
        (-1, r"model\.safetensors has 9\d,\d+ bytes instead of 9\d,\d+"),
    ],
)
def test_damaged_weights_are_told(keep, sentence, encoder, save) -> None:
    folder = save(encoder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    refused(encoder, folder, f"the weights cannot be read: {sentence}")


@pytest.mark.parametrize("keep", [0, 100])
def test_damaged_pickled_weights_are_told(keep, encoder, save) -> None:
    folder = save(encoder)
    weights = folder / "model.safetensors"
    (folder / "pytorch_model.bin").write_bytes(weights.read_bytes()[:keep])
    weights.unlink()
    refused(encoder, folder, r"pytorch_model\.bin is damaged, or holds more than tensors")


def test_weights_that_are_code_are_not_run(encoder, save, tmp_path) -> None:
    class Harm:
        def __reduce__(self) -> Any:
            return Path.touch, (tmp_path / "harmed",)

    folder = save(encoder)
    (folder / "model.safetensors").unlink()
    torch.save({"harm": Harm()}, folder / "pytorch_model.bin")
    refused(encoder, folder, r"pytorch_model\.bin is damaged, or holds more than tensors")
    assert not (tmp_path / "harmed").exists()


def test_missing_weights_are_told(encoder, save) -> None:
    folder = save(encoder)
    (folder / "model.safetensors").unlink()
    refused(encoder, folder, r"the weights cannot be read: there is no model\.safetensors")


@pytest.mark.parametrize("laid_out", ["shards", "pickled shards"], indirect=True)
def test_a_missing_shard_and_a_damaged_index_are_told(encoder, save, laid_out) -> None:
    folder = save(encoder)
    laid_out(folder)
    (shard,) = folder.glob("*-2.*")
    kept = shard.read_bytes()
    shard.unlink()
    refused(encoder, folder, f"the weights cannot be read: {shard.name} is missing")
    shard.write_bytes(kept)
    assert encoder.load(str(folder)).fresh == ()
    (index,) = folder.glob("*.index.json")
    for text in ("{", "{}", "[]", '{"weight_map": 3}'):
        index.write_text(text)
        refused(encoder, folder, f"the weights cannot be read: {index.name} is damaged")


def test_blocks_that_would_be_random_are_told(encoder, save, edit) -> None:
    folder = save(encoder)
    edit(folder, num_hidden_layers=3)
    refused(encoder, folder, r"lacks 16 tensors.*such as encoder\.layer\.2")


@pytest.mark.parametrize("head", ["none", "sequence-classification"])
def test_blocks_that_would_be_dropped_are_told(head, encoder, save, edit) -> None:
    folder = save(encoder)
    edit(folder, num_hidden_layers=1)
    refused(encoder, folder, r"encoder\.layer\.1, a block that", head=head)


def test_weights_of_another_shape_are_told(encoder, save, edit) -> None:
    folder = save(encoder)
    edit(folder, vocab_size=50)
    refused(encoder, folder, r"word_embeddings\.weight has the shape \(96, 32\)")


def test_a_classifier_of_another_size_is_told_unless_a_new_one_is_asked_for(
    encoder, save, edit
) -> None:
    folder = save(encoder, "sequence-classification")
    edit(folder, id2label={str(i): str(i) for i in range(4)}, label2id=None)
    assert AutoConfig.from_pretrained(folder).num_labels == 4
    sentence = "Give num_labels to start with a new head"
    refused(encoder, folder, sentence, head="sequence-classification")
