"""Heads for tokens and for spans: which families have them, and where their layers are."""

import pytest
import torch

from peftcore import ConfigError, backbone_named, survey


@pytest.mark.parametrize("name", ["llama", "gemma", "gpt2"])
@pytest.mark.parametrize("head", ["token-classification", "question-answering"])
def test_a_decoder_labels_tokens_and_finds_spans(name: str, head: str) -> None:
    family = backbone_named(name)
    if head not in family.heads:
        with pytest.raises(ConfigError, match=f"has no head {head!r}"):
            family.tiny(head=head)
        return
    model = family.tiny(head=head)
    assert "head" in survey(model, family).roles()
    loss = model(**family.batch(model)).loss
    assert torch.isfinite(loss) and loss > 0


def test_a_member_without_the_class_says_so_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match="no head 'token-classification' for models of type 'gem"):
        backbone_named("gemma").build("gemma-3-1b", head="token-classification")
