"""What a call tells of its tokens: which are real, which the prompt's, which were generated."""

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from peftcore import Context

IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
LEFT = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
RIGHT = LEFT.flip(1)


def same(found: Tensor | None, expected: Any) -> bool:
    return found is not None and torch.equal(found, torch.as_tensor(expected).bool())


# --- padding ------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", [LEFT, RIGHT])
@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_without_labels_every_real_token_is_the_prompt(family, mask, request) -> None:
    knows = request.getfixturevalue(family)
    context = knows.context(None, (), {"input_ids": IDS, "attention_mask": mask})
    assert same(context.mask, mask) and same(context.prompt, mask)
    assert not context.generated and context.offset == 0


def test_positional_arguments_are_understood(encoder) -> None:
    assert same(encoder.context(None, (IDS, RIGHT), {}).mask, RIGHT)


def test_without_a_mask_every_token_is_real(encoder) -> None:
    for call in ({"input_ids": IDS}, {"inputs_embeds": torch.zeros(2, 5, 8)}):
        assert same(encoder.context(None, (), call).mask, torch.ones(2, 5))


def test_a_mask_of_pairs_of_tokens_is_understood(encoder) -> None:
    """As models make it of [B, L] themselves: bool or int, or 0 and minus infinity to be added."""
    allowed = RIGHT[:, None, None, :] * RIGHT[:, None, :, None]
    added = torch.zeros(allowed.shape).masked_fill(allowed == 0, float("-inf"))
    for pairs in (allowed, allowed.bool(), added, allowed[:, 0]):
        assert same(encoder.context(None, (IDS, pairs), {}).mask, RIGHT)


def test_one_mask_of_several_kinds_of_attention_is_enough(decoder) -> None:
    masks = {"full_attention": LEFT, "sliding_attention": LEFT}
    assert same(decoder.context(None, (IDS, masks), {}).mask, LEFT)


def test_a_call_without_tokens_has_no_mask(encoder) -> None:
    context = encoder.context(None, (), {"attention_mask": LEFT})
    assert context.mask is None and context.prompt is None


# --- prompts ------------------------------------------------------------------------------------


def test_the_prompt_of_an_encoder_is_every_real_token_whatever_is_labelled(encoder) -> None:
    labels = IDS.masked_fill(IDS < 8, -100)
    call = {"input_ids": IDS, "attention_mask": RIGHT, "labels": labels}
    assert same(encoder.context(None, (), call).prompt, RIGHT)


def test_the_prompt_ends_at_the_first_label(decoder) -> None:
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, -100, 8, 9]])
    call = {"input_ids": IDS, "attention_mask": LEFT, "labels": labels}
    context = decoder.context(None, (), call)
    assert same(context.prompt, [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    call = {"input_ids": IDS, "attention_mask": RIGHT, "labels": labels.flip(0)}
    # RIGHT: the first row has three real tokens
    assert same(decoder.context(None, (), call).prompt, [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_a_row_labelled_from_its_first_real_token_is_a_prompt_throughout(decoder) -> None:
    labels = IDS.masked_fill(LEFT == 0, -100)
    call = {"input_ids": IDS, "attention_mask": LEFT, "labels": labels}
    assert same(decoder.context(None, (), call).prompt, LEFT)


def test_a_row_without_labels_is_a_prompt_throughout(decoder) -> None:
    call = {"input_ids": IDS, "attention_mask": RIGHT, "labels": torch.full_like(IDS, -100)}
    assert same(decoder.context(None, (), call).prompt, RIGHT)


def test_labels_of_a_classifier_say_nothing_of_the_prompt(decoder) -> None:
    call = {"input_ids": IDS, "attention_mask": LEFT, "labels": torch.tensor([0, 1])}
    assert same(decoder.context(None, (), call).prompt, LEFT)


@pytest.mark.parametrize("with_labels", [False, True])
def test_the_context_can_be_compiled_in_one_graph(with_labels, decoder) -> None:
    def prompt(ids: Tensor, mask: Tensor, labels: Tensor | None) -> Tensor | None:
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return decoder.context(None, (), call).prompt

    labels = IDS.masked_fill(IDS < 7, -100) if with_labels else None
    torch._dynamo.reset()
    compiled = torch.compile(prompt, fullgraph=True, backend="eager")
    assert same(compiled(IDS, LEFT, labels), prompt(IDS, LEFT, labels))


# --- caches -------------------------------------------------------------------------------------


def calls_of(model: Any, family: Any, **options: Any) -> list[Context]:
    """Generate, and return the context of every call of the model."""
    seen: list[Context] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(family.context(None, args, kwargs)), with_kwargs=True
    )
    model.generate(
        input_ids=IDS, attention_mask=LEFT, max_new_tokens=3, min_new_tokens=3, do_sample=False,
        **options,
    )  # fmt: skip
    handle.remove()
    return seen


@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_is_a_prompt_and_then_single_generated_tokens(cache, decoder) -> None:
    model = decoder.tiny(head="causal-lm")
    first, *rest = calls_of(model, decoder, cache_implementation=cache, disable_compile=True)
    assert same(first.mask, LEFT) and same(first.prompt, LEFT) and not first.generated
    assert len(rest) == 2
    for context in rest:
        assert context.generated and same(context.mask, [[1], [1]])


def test_generation_without_a_cache_is_never_called_generated(decoder) -> None:
    contexts = calls_of(decoder.tiny(head="causal-lm"), decoder, use_cache=False)
    assert [c.mask.shape[1] for c in contexts if c.mask is not None] == [5, 6, 7]
    assert not any(c.generated for c in contexts)


def test_a_further_part_of_a_prompt_is_not_called_generated(decoder) -> None:
    model = decoder.tiny(head="causal-lm")
    cache = DynamicCache(config=model.config)
    model(input_ids=IDS[:, :2], attention_mask=LEFT[:, :2], past_key_values=cache)
    call = {"input_ids": IDS[:, 2:], "attention_mask": LEFT, "past_key_values": cache}
    context = decoder.context(None, (), call)
    assert not context.generated and same(context.mask, LEFT[:, 2:]) and context.offset == 2


def test_a_prompt_of_one_token_is_not_called_generated(decoder) -> None:
    cache = DynamicCache(config=decoder.tiny().config)
    call = {"input_ids": IDS[:, :1], "past_key_values": cache}
    assert not decoder.context(None, (), call).generated
