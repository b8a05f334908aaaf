"""Rows in a padded batch, and the same rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore.errors import PeftcoreError
from peftcore.model.backbones import Backbone
from peftcore.model.survey import survey
from peftcore.registry.installed import installed
from peftcore.testing.closeness import check_close
from peftcore.testing.matrix import perturb, run, tensors_of, tiny

#: Features that methods need whose pieces look at tokens.
_OF_TOKENS = {"tokens", "cache", "one-pass"}
#: Roles at which the probe counts tokens; the second is of the tokens of another stack.
_COUNTED = ("block", "cross_attention.value")
_STEPS = 2


class Padded:
    """The part of :class:`BackboneContract` that puts rows beside longer ones."""

    backbone: ClassVar[str]
    heads: ClassVar[tuple[str, ...]] = ("none",)

    @pytest.mark.backbones
    def test_a_padded_row_is_what_it_is_alone(self) -> None:
        knows, model, batch = self._with_padding()
        for name in ("", "probe", *methods_of_tokens()):
            adapter = _attached(model, name)
            if name and adapter is None:
                continue
            try:
                padded = run(model, batch)
                for row in range(2):
                    one = run(model, alone(batch, row, knows))
                    check_row(padded, one, row, f"{name or 'the bare base'}: row {row}")
            except PeftcoreError:
                assert name != "probe", "the context of a padded batch is refused"
            except AssertionError:
                if not name:
                    pytest.skip("the family itself computes padded rows otherwise")
                raise
            finally:
                if adapter is not None:
                    adapter.detach()

    @pytest.mark.backbones
    def test_a_padded_prompt_is_continued_as_it_is_alone(self) -> None:
        knows, model, batch = self._with_padding()
        if not hasattr(model, "generate") or not knows.generating:
            pytest.skip("the family does not generate")
        given, left = prompt_of(batch, knows)
        for name in ("probe", *methods_of_tokens()):
            adapter = _attached(model, name)
            if adapter is None:
                continue
            one = alone(given, 1, knows, left=left)
            try:
                check_continued(model, given, one, name)
            except PeftcoreError:
                assert name != "probe", "the context of a padded prompt is refused"
            finally:
                adapter.detach()

    def _with_padding(self) -> tuple[Backbone, nn.Module, dict[str, Any]]:
        knows, model, batch = tiny(self.backbone)
        if knows.default_head in self.heads:
            knows, model, batch = tiny(self.backbone, knows.default_head)
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        if "tokens" not in knows.has or not masks:
            pytest.skip("rows of the family have no padding")
        return knows, model, batch


def methods_of_tokens() -> list[str]:
    """Return installed methods whose pieces look at tokens, one of each class."""
    found: dict[str, str] = {}
    for name, spec in installed().methods.items():
        if name != "probe" and _OF_TOKENS.intersection(spec.needs):
            found.setdefault(spec.method, name)
    return list(found.values())


def _attached(model: nn.Module, method: str) -> peftcore.Adapter | None:
    """Attach a method with its defaults, and move it; None where the model is refused."""
    if not method:
        return None
    more: dict[str, Any] = {}
    if method == "probe":
        roles = survey(model, peftcore.backbone_of(model)).roles()
        more = {"targets": [r for r in _COUNTED if r in roles], "through": "prompt"}
    try:
        adapter = peftcore.attach(model, method, **more)
    except PeftcoreError:
        return None
    if not (adapter.uses_context or "cache" in installed().methods[method].needs):
        adapter.detach()  # it treats all tokens alike
        return None
    perturb(adapter)
    return adapter


def alone(
    batch: Mapping[str, Tensor], row: int, knows: Backbone, *, left: bool = False
) -> dict[str, Tensor]:
    """Return one row of a batch without its padding.

    Args:
        batch: keyword arguments of the model; padding is behind the rows.
        row: which one.
        knows: the model's backbone; of one with a stack that writes, labels are of that stack.
        left: padding is before the rows.
    """
    one = {name: value[row : row + 1] for name, value in batch.items()}
    if (mask := one.get("attention_mask")) is not None:
        length = int(mask.sum())
        for name, value in one.items():
            written = name.startswith("decoder") or (knows.writing_stack and name == "labels")
            if not written and value.dim() > 1 and value.shape[1] == mask.shape[1]:
                one[name] = value[:, -length:] if left else value[:, :length]
    if not knows.writing_stack:
        return one
    shown = one.get("decoder_attention_mask", one.get("labels", torch.tensor(0)) != -100)
    if shown.dim() > 1:
        length = int((shown.nonzero()[:, 1]).max()) + 1
        names = (name for name in one if name.startswith("decoder") or name == "labels")
        one.update({name: one[name][:, :length] for name in list(names)})
    return one


def check_row(padded: list[Tensor], one: list[Tensor], row: int, what: str) -> None:
    """Check that a row of a padded batch came out as it does alone, where it is no padding.

    Raises:
        AssertionError: it did not.
    """
    for together, single in zip(padded, one, strict=True):
        if single.dim() and len(single) == 1 and len(together) > row:
            part = together[row][tuple(slice(n) for n in single.shape[1:])]
            check_close(part, single[0], what, atol=1e-4, rtol=1e-4)


def check_continued(
    model: nn.Module, given: Mapping[str, Tensor], one: Mapping[str, Tensor], name: str
) -> None:
    """Check that the second of two prompts is continued as alone, with a cache and without.

    Raises:
        AssertionError: it is not.
    """
    first = scores(model, given, use_cache=True)
    for cached in (True, False):
        padded = first if cached else scores(model, given, use_cache=False)
        single = scores(model, one, use_cache=cached)
        what = f"{name}, use_cache={cached}: what continues the padded row"
        check_close(padded[1], single[0], what, atol=1e-4, rtol=1e-4)
        what = f"{name}: what continues the rows without a cache"
        check_close(padded, first, what, atol=1e-4, rtol=1e-4)


def prompt_of(batch: Mapping[str, Tensor], knows: Backbone) -> tuple[dict[str, Tensor], bool]:
    """Return what a batch gives to generate from, and whether its padding is before the rows."""
    names = ("input_ids", "attention_mask", "input_features", "pixel_values")
    given = {name: batch[name] for name in names if name in batch}
    if knows.writing_stack:
        return given, False
    for name in ("input_ids", "attention_mask"):
        rows = zip(batch[name], batch["attention_mask"].sum(1), strict=True)
        given[name] = torch.stack([row.roll(len(row) - int(length)) for row, length in rows])
    return given, True


def scores(model: nn.Module, given: Mapping[str, Tensor], *, use_cache: bool) -> Tensor:
    """Return the scores of the next tokens, [B, steps, vocabulary]; of a toy, the tokens."""
    generate: Any = model.generate
    out = generate(
        **given, max_new_tokens=_STEPS, min_new_tokens=_STEPS, do_sample=False, pad_token_id=0,
        use_cache=use_cache, return_dict_in_generate=True, output_logits=True,
    )  # fmt: skip
    if isinstance(out, Tensor):
        return out[:, -_STEPS:]
    return torch.stack(tensors_of(out["logits"]), 1)
