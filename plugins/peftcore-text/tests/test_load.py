import json
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, BertTokenizer

from peftcore import ConfigError, backbone_named, backbone_of

BERT = backbone_named("bert")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    BERT.tiny(head="masked-lm").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_saved_model_comes_back_with_its_weights(folder: Path) -> None:
    loaded = BERT.load(str(folder), head="masked-lm")
    torch.manual_seed(0)
    model = BERT.tiny(head="masked-lm")
    batch = BERT.batch(model)
    torch.testing.assert_close(loaded.model(**batch).logits, model(**batch).logits)
    assert loaded.fresh == () and loaded.source == str(folder)
    assert not loaded.model.training and loaded.tokenizer is None
    assert backbone_of(loaded.model).name == "bert"


def test_what_the_checkpoint_lacks_is_told_as_fresh(folder: Path) -> None:
    pooler = ("pooler.dense.weight", "pooler.dense.bias")
    assert BERT.load(str(folder)).fresh == pooler
    loaded = BERT.load(str(folder), head="sequence-classification", num_labels=3)
    assert loaded.fresh == (
        *(f"bert.{name}" for name in pooler),
        "classifier.weight",
        "classifier.bias",
    )
    assert loaded.model.config.num_labels == 3


def test_a_head_of_another_size_starts_anew_when_asked_for(tmp_path: Path) -> None:
    BERT.tiny(head="sequence-classification").save_pretrained(tmp_path)
    same = BERT.load(str(tmp_path), head="sequence-classification")
    assert same.fresh == ()
    other = BERT.load(str(tmp_path), head="sequence-classification", num_labels=5)
    assert other.fresh == ("classifier.weight", "classifier.bias")


def test_the_dtype_is_the_checkpoints_or_the_one_asked_for(folder: Path, tmp_path: Path) -> None:
    assert BERT.load(str(folder), dtype="bfloat16").model.dtype == torch.bfloat16
    BERT.tiny().to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert BERT.load(str(tmp_path / "half")).model.dtype == torch.bfloat16
    with pytest.raises(ConfigError, match="dtype 'int8'"):
        BERT.load(str(folder), dtype="int8")


def test_a_tokenizer_beside_the_model_is_loaded(folder: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad"]
    (folder / "vocab.txt").write_text("\n".join(words))
    tokenizer = BERT.load(str(folder)).tokenizer
    assert isinstance(tokenizer, BertTokenizer)
    assert tokenizer("good")["input_ids"] == [2, 5, 3]


def test_a_missing_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        BERT.load(str(tmp_path / "nothing"))


def test_a_folder_without_config_and_a_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no config\.json"):
        BERT.load(str(tmp_path))
    file = tmp_path / "model.safetensors"
    file.touch()
    with pytest.raises(ConfigError, match="is a file"):
        BERT.load(str(file))


def test_a_name_that_cannot_be_fetched_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="is no folder here"):
        BERT.load("no-such-bert")


def test_a_model_of_another_family_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="type 'bert'; the backbone roberta knows roberta"):
        backbone_named("roberta").load(str(folder))


def test_a_damaged_config_is_told(folder: Path) -> None:
    (folder / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read"):
        BERT.load(str(folder))


def test_a_value_that_no_config_can_have_is_told(folder: Path) -> None:
    edit_config(folder, hidden_size="wide")
    with pytest.raises(ConfigError, match=r"config\.json cannot be read.*hidden_size"):
        BERT.load(str(folder))


@pytest.mark.parametrize("keep", [0, 100, 20_000])
def test_damaged_weights_are_told(folder: Path, keep: int) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:keep])
    with pytest.raises(ConfigError, match="weights cannot be read"):
        BERT.load(str(folder))


def test_missing_weights_are_told(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match="weights cannot be read"):
        BERT.load(str(folder))


def test_blocks_that_would_be_random_are_told(folder: Path) -> None:
    edit_config(folder, num_hidden_layers=3)
    with pytest.raises(ConfigError, match=r"lacks 16 tensors.*such as encoder\.layer\.2"):
        BERT.load(str(folder))


@pytest.mark.parametrize("head", ["none", "sequence-classification"])
def test_blocks_that_would_be_dropped_are_told(folder: Path, head: str) -> None:
    edit_config(folder, num_hidden_layers=1)
    with pytest.raises(ConfigError, match=r"encoder\.layer\.1, a block that"):
        BERT.load(str(folder), head=head)


def test_weights_of_another_shape_are_told(folder: Path) -> None:
    edit_config(folder, vocab_size=50)
    with pytest.raises(ConfigError, match=r"word_embeddings\.weight has the shape \(96, 32\)"):
        BERT.load(str(folder))


def test_a_classifier_of_another_size_is_told_unless_a_new_one_is_asked_for(tmp_path: Path) -> None:
    BERT.tiny(head="sequence-classification").save_pretrained(tmp_path)
    edit_config(tmp_path, id2label={str(i): str(i) for i in range(4)}, label2id=None)
    assert AutoConfig.from_pretrained(tmp_path).num_labels == 4
    with pytest.raises(ConfigError, match="Give num_labels to start with a new head"):
        BERT.load(str(tmp_path), head="sequence-classification")


def test_a_family_recognises_its_own_checkpoints(folder: Path, tmp_path: Path) -> None:
    assert BERT.recognises(str(folder))
    assert not backbone_named("roberta").recognises(str(folder))
    assert not BERT.recognises(str(tmp_path))
    assert not BERT.recognises(str(tmp_path / "nothing"))
