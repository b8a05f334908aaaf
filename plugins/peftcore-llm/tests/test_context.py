"""Calls of every family here; what a context is, peftcore-transformers tests."""

import inspect
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from peftcore import Context, backbone_named

IDS = torch.tensor([[5, 6, 7, 8, 9], [5, 6, 7, 8, 9]])
LEFT = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1]])
FAMILIES = ("llama", "mistral", "qwen", "gemma", "gpt2")


def same(found: Tensor | None, expected: Any) -> bool:
    return found is not None and torch.equal(found, torch.as_tensor(expected).bool())


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


def test_gemma_3_with_pictures_is_left_to_others() -> None:
    from fnmatch import fnmatchcase

    from peftcore import installed

    cls = transformers.Gemma3ForConditionalGeneration
    name = f"{cls.__module__}:{cls.__qualname__}"
    assert not any(fnmatchcase(name, glob) for glob in installed().backbones["gemma"].matches)
