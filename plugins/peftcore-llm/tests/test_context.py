import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import DynamicCache

from peftcore import Context, backbone_named

LLAMA = backbone_named("llama")
IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
LEFT = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
RIGHT = LEFT.flip(1)
FAMILIES = ("llama", "mistral", "qwen", "gemma", "gpt2")


def same(found: Tensor | None, expected: Any) -> bool:
    return found is not None and torch.equal(found, torch.as_tensor(expected).bool())


@pytest.mark.parametrize("mask", [LEFT, RIGHT])
def test_without_labels_every_real_token_is_the_prompt(mask: Tensor) -> None:
    context = LLAMA.context(None, (), {"input_ids": IDS, "attention_mask": mask})
    assert same(context.mask, mask) and same(context.prompt, mask)
    assert not context.generated


def test_the_prompt_ends_at_the_first_label() -> None:
    labels = torch.tensor([[-100, -100, 7, 8, -100], [-100, -100, -100, 8, 9]])
    context = LLAMA.context(None, (), {"input_ids": IDS, "attention_mask": LEFT, "labels": labels})
    assert same(context.prompt, [[1, 1, 0, 0, 0], [0, 0, 1, 0, 0]])
    context = LLAMA.context(
        None, (), {"input_ids": IDS, "attention_mask": RIGHT, "labels": labels.flip(0)}
    )
    # RIGHT: the first row has three real tokens
    assert same(context.prompt, [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])


def test_a_row_labelled_from_its_first_real_token_is_a_prompt_throughout() -> None:
    labels = IDS.masked_fill(LEFT == 0, -100)
    context = LLAMA.context(None, (), {"input_ids": IDS, "attention_mask": LEFT, "labels": labels})
    assert same(context.prompt, LEFT)


def test_a_row_without_labels_is_a_prompt_throughout() -> None:
    labels = torch.full_like(IDS, -100)
    context = LLAMA.context(None, (), {"input_ids": IDS, "attention_mask": RIGHT, "labels": labels})
    assert same(context.prompt, RIGHT)


def test_labels_of_a_classifier_say_nothing_of_the_prompt() -> None:
    call = {"input_ids": IDS, "attention_mask": LEFT, "labels": torch.tensor([0, 1])}
    assert same(LLAMA.context(None, (), call).prompt, LEFT)


@pytest.mark.parametrize("family", FAMILIES)
def test_positional_arguments_mean_what_they_mean_to_the_model(family: str) -> None:
    backbone = backbone_named(family)
    forward = inspect.signature(backbone.tiny(head="causal-lm").forward)
    assert tuple(forward.parameters)[: len(backbone.positional)] == backbone.positional
    labels = torch.tensor([[-100, -100, 7, 8, 9]] * 2)
    values = {"input_ids": IDS, "attention_mask": LEFT, "labels": labels}
    context = backbone.context(None, tuple(values.get(name) for name in backbone.positional), {})
    assert same(context.mask, LEFT)
    assert same(context.prompt, [[1, 1, 0, 0, 0], [0, 0, 1, 1, 1]])


def calls_of(model: Any, backbone: Any, **options: Any) -> list[Context]:
    """Generate, and return the context of every call of the model."""
    seen: list[Context] = []
    handle = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(backbone.context(None, args, kwargs)), with_kwargs=True
    )
    model.generate(
        input_ids=IDS, attention_mask=LEFT, max_new_tokens=3, min_new_tokens=3, do_sample=False,
        **options,
    )  # fmt: skip
    handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("cache", ["dynamic", "static"])
def test_generation_is_a_prompt_and_then_single_generated_tokens(family: str, cache: str) -> None:
    backbone = backbone_named(family)
    model = backbone.tiny(head="causal-lm")
    first, *rest = calls_of(model, backbone, cache_implementation=cache, disable_compile=True)
    assert same(first.mask, LEFT) and same(first.prompt, LEFT) and not first.generated
    assert len(rest) == 2
    for context in rest:
        assert context.generated and same(context.mask, [[1], [1]])


def test_generation_without_a_cache_is_never_called_generated() -> None:
    model = LLAMA.tiny(head="causal-lm")
    contexts = calls_of(model, LLAMA, use_cache=False)
    assert [c.mask.shape[1] for c in contexts if c.mask is not None] == [5, 6, 7]
    assert not any(c.generated for c in contexts)


def test_a_further_part_of_a_prompt_is_not_called_generated() -> None:
    model = LLAMA.tiny(head="causal-lm")
    cache = DynamicCache(config=model.config)
    model(input_ids=IDS[:, :2], attention_mask=LEFT[:, :2], past_key_values=cache)
    call = {"input_ids": IDS[:, 2:], "attention_mask": LEFT, "past_key_values": cache}
    context = LLAMA.context(None, (), call)
    assert not context.generated and same(context.mask, LEFT[:, 2:])


def test_a_prompt_of_one_token_is_not_called_generated() -> None:
    cache = DynamicCache(config=LLAMA.tiny().config)
    call = {"input_ids": IDS[:, :1], "past_key_values": cache}
    assert not LLAMA.context(None, (), call).generated


@pytest.mark.parametrize("with_labels", [False, True])
def test_the_context_can_be_compiled_in_one_graph(with_labels: bool) -> None:
    def prompt(ids: Tensor, mask: Tensor, labels: Tensor | None) -> Tensor | None:
        call = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        return LLAMA.context(None, (), call).prompt

    labels = IDS.masked_fill(IDS < 7, -100) if with_labels else None
    compiled = torch.compile(prompt, fullgraph=True, backend="eager")
    assert same(compiled(IDS, LEFT, labels), prompt(IDS, LEFT, labels))


def test_gemma_3_with_pictures_is_left_to_others() -> None:
    from fnmatch import fnmatchcase

    from peftcore import installed

    cls = transformers.Gemma3ForConditionalGeneration
    name = f"{cls.__module__}:{cls.__qualname__}"
    assert not any(fnmatchcase(name, glob) for glob in installed().backbones["gemma"].matches)
