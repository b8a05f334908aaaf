"""Models of a family: named sizes, the small member, its batch, and where its heads are."""

from typing import Any

import pytest
import torch
from torch import nn

from peftcore import ConfigError, survey


def roles_of(family: Any, model: nn.Module) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for site in survey(model, family).sites:
        found.setdefault(site.role, []).append(site.path)
    return found


# --- sizes --------------------------------------------------------------------------------------


def test_a_named_size_is_built_by_its_numbers(encoder) -> None:
    with torch.device("meta"):
        model = encoder.build("base", head="sequence-classification", num_labels=3)
    # published: 108,310,272 without a head
    assert sum(p.numel() for p in model.parameters()) == 108_310_272 + 3 * 769
    with torch.device("meta"):
        deep = encoder.build("deep")
    assert len(deep.encoder.layer) == 24 and next(deep.parameters()).is_meta


def test_options_of_a_size_are_those_of_a_load(encoder) -> None:
    with torch.device("meta"):
        model: Any = encoder.build("base", dtype="bfloat16", attn_implementation="eager")
    assert model.dtype == torch.bfloat16 and model.config._attn_implementation == "eager"
    with pytest.raises(ConfigError, match=r"'dtypes' is not an option.*Did you mean dtype"):
        encoder.build("base", dtypes="bfloat16")
    with pytest.raises(ConfigError, match="dtype 'int8' is none of"):
        encoder.build("base", dtype="int8")


def test_a_folder_can_be_built_without_its_weights(encoder, save) -> None:
    folder = save(encoder, "masked-lm")
    (folder / "model.safetensors").unlink()
    with torch.device("meta"):
        model = encoder.build(str(folder), head="sequence-classification", num_labels=7)
    assert model.classifier.out_features == 7
    assert model.bert.embeddings.word_embeddings.weight.shape == (96, 32)


def test_a_size_that_there_is_not_is_told_with_the_nearest(encoder, decoder, save) -> None:
    with pytest.raises(ConfigError, match=r"'bse' is not a size of Encoder\. Did you mean base\?"):
        encoder.build("bse")
    with pytest.raises(ConfigError, match="'base' is not a size of Decoder"):
        decoder.build("base")
    with pytest.raises(ConfigError, match="type 'bert'; the backbone Decoder knows llama"):
        decoder.build(str(save(encoder)))


# --- the small member ---------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_the_batch_suits_every_head_and_has_padding(family, request) -> None:
    knows = request.getfixturevalue(family)
    for head in ("none", *knows.heads):
        torch.manual_seed(0)
        model = knows.tiny(head=head)
        batch = knows.batch(model, rows=3)
        out = model(**batch)
        assert batch["attention_mask"].sum(1).tolist() == [12, 9, 6]
        assert bool({"labels", "start_positions"} & set(batch)) == (head != "none")
        if head != "none":
            scores = out.start_logits if head == "question-answering" else out.logits
            assert torch.isfinite(out.loss) and scores.shape[0] == 3


def test_the_batch_of_a_wrapped_model_is_that_of_what_it_wraps(encoder) -> None:
    wrapped = nn.ModuleDict({"encoder": encoder.tiny(), "top": nn.Linear(32, 2)})
    assert encoder.entry(wrapped) == "encoder"
    assert set(encoder.batch(wrapped)) == {"input_ids", "attention_mask"}


# --- heads --------------------------------------------------------------------------------------


def test_what_lies_outside_of_the_network_is_its_head(encoder, decoder) -> None:
    assert "head" not in roles_of(encoder, encoder.tiny())
    found = roles_of(encoder, encoder.tiny(head="sequence-classification"))
    assert (found["head"], found["model"]) == (["classifier"], ["bert"])
    found = roles_of(encoder, encoder.tiny(head="masked-lm"))
    assert set(found["head"]) >= {"cls.predictions.transform.dense", "cls.predictions.decoder"}
    found = roles_of(decoder, decoder.tiny(head="sequence-classification"))
    assert (found["head"], found["model"]) == (["score"], ["model"])


def test_the_pooler_is_no_head_and_keeps_its_role(encoder) -> None:
    found = roles_of(encoder, encoder.tiny(head="sequence-classification"))
    assert found["pooler"] == ["bert.pooler.dense"]
    assert found["pooler"][0] not in found["head"]


class Wrapped(nn.Module):
    """A network with a head of its own, and a parameter that is in no layer."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder
        self.top = nn.Linear(32, 2)
        self.scale = nn.ParameterDict({"factor": nn.Parameter(torch.ones(1))})


def test_the_head_that_a_task_puts_around_a_network_is_found(encoder) -> None:
    found = roles_of(encoder, Wrapped(encoder.tiny()))
    assert set(found["head"]) == {"top", "scale"}
    assert found["model"] == ["encoder"]
    assert found["attention.query"] == [
        f"encoder.encoder.layer.{i}.attention.self.query" for i in range(2)
    ]


def test_the_width_is_the_hidden_size(encoder) -> None:
    for model in (encoder.tiny(), Wrapped(encoder.tiny())):
        assert encoder.width(model, "", model) == 32
        blocks = [s for s in survey(model, encoder).sites if s.role == "block"]
        assert {s.layer.out_features for s in blocks} == {32}
