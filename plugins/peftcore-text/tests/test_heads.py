"""Heads for tokens and for spans."""

import pytest
import torch

from peftcore import backbone_named, survey


@pytest.mark.parametrize("name", ["bert", "roberta", "deberta", "distilbert", "electra"])
@pytest.mark.parametrize("head", ["token-classification", "question-answering"])
def test_an_encoder_labels_tokens_and_finds_spans(name: str, head: str) -> None:
    family = backbone_named(name)
    model = family.tiny(head=head)
    assert "head" in survey(model, family).roles()
    loss = model(**family.batch(model)).loss
    assert torch.isfinite(loss) and loss > 0
