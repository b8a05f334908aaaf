"""Checkpoints of every family here; how damage is told is a matter of peftcore-transformers."""

from pathlib import Path

import pytest
import torch

from peftcore import backbone_named, backbone_of

FAMILIES = ("bert", "roberta", "deberta", "distilbert", "electra")


@pytest.fixture(params=FAMILIES)
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    torch.manual_seed(0)
    backbone_named(request.param).tiny(head="masked-lm").save_pretrained(tmp_path)
    return request.param, tmp_path


def test_a_saved_model_comes_back_with_its_weights(saved: tuple[str, Path]) -> None:
    family, folder = saved
    backbone = backbone_named(family)
    loaded = backbone.load(str(folder), head="masked-lm")
    torch.manual_seed(0)
    model = backbone.tiny(head="masked-lm")
    batch = backbone.batch(model)
    torch.testing.assert_close(loaded.model(**batch).logits, model(**batch).logits)
    assert loaded.fresh == () and backbone_of(loaded.model).name == family


def test_a_classifier_is_fresh_and_a_plan_knows_it(saved: tuple[str, Path]) -> None:
    family, folder = saved
    backbone = backbone_named(family)
    head = "sequence-classification"
    loaded = backbone.load(str(folder), head=head, num_labels=3)
    assert {"classifier.bias", "classifier.out_proj.bias"} & set(loaded.fresh)
    on_meta = backbone.load_on_meta(str(folder), head=head, num_labels=3)
    assert on_meta.fresh == loaded.fresh


def test_a_family_recognises_its_own_checkpoints_and_no_others(saved: tuple[str, Path]) -> None:
    family, folder = saved
    assert [f for f in FAMILIES if backbone_named(f).recognises(str(folder))] == [family]


def test_the_head_of_t5_1_1_is_its_own_built_and_loaded(tmp_path: Path) -> None:
    """transformers ties it whatever config.json says."""
    torch.manual_seed(0)
    t5 = backbone_named("t5")
    model = t5.tiny(head="seq2seq-lm")
    model.tie_weights()
    assert model.lm_head.weight is not model.shared.weight
    model.save_pretrained(tmp_path)
    loaded = t5.load(str(tmp_path), head="seq2seq-lm")
    assert loaded.fresh == () and loaded.model.lm_head.weight is not loaded.model.shared.weight
    batch = t5.batch(model)
    torch.testing.assert_close(loaded.model(**batch).logits, model(**batch).logits)
    for other in (
        t5.build(str(tmp_path), head="seq2seq-lm"),
        t5.load_on_meta(str(tmp_path), head="seq2seq-lm").model,
    ):
        assert sum(p.numel() for p in other.parameters()) == sum(
            p.numel() for p in model.parameters()
        )
