import torch

from peftcore import backbone_named

IDS = torch.tensor([[5, 6, 7, 8], [9, 10, 0, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])


def test_the_prompt_of_an_encoder_is_every_real_token() -> None:
    labels = IDS.masked_fill(IDS < 8, -100)
    context = backbone_named("bert").context(
        None, (), {"input_ids": IDS, "attention_mask": MASK, "labels": labels}
    )
    assert context.mask is not None and context.prompt is not None
    assert torch.equal(context.mask, MASK.bool())
    assert torch.equal(context.prompt, MASK.bool())
    assert not context.generated


def test_positional_arguments_are_understood() -> None:
    context = backbone_named("roberta").context(None, (IDS, MASK), {})
    assert context.mask is not None and torch.equal(context.mask, MASK.bool())


def test_without_a_mask_every_token_is_real() -> None:
    for call in ({"input_ids": IDS}, {"inputs_embeds": torch.zeros(2, 4, 8)}):
        context = backbone_named("bert").context(None, (), call)
        assert context.mask is not None
        assert context.mask.shape == (2, 4) and bool(context.mask.all())


def test_a_mask_of_pairs_of_tokens_is_understood() -> None:
    pairs = MASK[:, None, :] * MASK[:, :, None]
    context = backbone_named("bert").context(None, (IDS, pairs), {})
    assert context.mask is not None and torch.equal(context.mask, MASK.bool())


def test_a_call_without_tokens_has_no_mask() -> None:
    assert backbone_named("bert").context(None, (), {}).mask is None
