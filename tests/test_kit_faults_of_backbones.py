"""The contract of backbones lets none of these faults through."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import Backbone, ConfigError, Loaded
from peftcore.testing import (
    BackboneContract,
    kit,
)
from peftcore.testing.toy import ToyBackbone
from peftcore.testing.toy_cnn import ToyCnnBackbone
from peftcore.testing.toy_decoder import ToyDecoder, ToyDecoderBackbone

Have = Callable[..., Any]


def variant(base: type, **changes: Any) -> type:
    return type("Variant", (base,), changes)


_ENCODER = ("tokens", "bidirectional", "one-pass", "own-queries")
_DECODER = ToyDecoderBackbone.has
BACKBONES: dict[str, tuple[type, dict[str, Any], str, str]] = {
    "unknown feature": (
        ToyBackbone, {"has": (*_ENCODER, "cahce")},
        "features_that_it_names_are_known_and_told_once",
        "'cahce' is no feature. Did you mean cache?",
    ),
    "found feature": (
        ToyBackbone, {"has": (*_ENCODER, "linear")},
        "features_that_it_names_are_known_and_told_once", "linear: found in the model",
    ),
    "both": (
        ToyBackbone, {"lacks": {"tokens": "it has no tokens"}},
        "features_that_it_names_are_known_and_told_once", "both has and lacks tokens",
    ),
    "lacks what it has": (
        ToyBackbone, {"lacks": {"attention": "it has no attention"}},
        "it_lacks_what_it_says_that_it_lacks", "lacks attention, which the model has",
    ),
    "no tokens": (
        ToyCnnBackbone, {"has": ("tokens", "one-pass")},
        "it_has_tokens_if_its_blocks_return_sequences", r"returns \(2, 12, 4, 4\)",
    ),
    "tokens untold": (
        ToyBackbone, {"has": ("one-pass",)}, "it_has_tokens_if_its_blocks_return_sequences",
        "'tokens' of has is told wrongly",
    ),
    "causal": (
        ToyDecoderBackbone, {"has": (*_DECODER, "bidirectional")},
        "it_is_bidirectional_if_a_token_sees_the_next_one", "does not see a later one",
    ),
    "bidirectional untold": (
        ToyBackbone, {"has": ("tokens",)}, "it_is_bidirectional_if_a_token_sees_the_next_one",
        "an earlier token sees",
    ),
    "no cache": (
        ToyBackbone, {"has": (*_ENCODER, "cache")}, "a_cache_is_taken_and_changes_nothing",
        "takes no past_key_values",
    ),
    "queries untold": (
        ToyBackbone, {"has": ("tokens",)}, "queries_are_projected_once_if_it_says_so",
        "'own-queries' of has is told wrongly",
    ),
    "needless stand-in": (
        ToyBackbone, {"stands_in": {"attention.query": "mlp.up"}},
        "what_stands_in_is_there_and_what_it_stands_in_for_is_not", "needs no stand-in",
    ),
    "absent stand-in": (
        ToyBackbone, {"stands_in": {"mlp.gate": "conv"}},
        "what_stands_in_is_there_and_what_it_stands_in_for_is_not", "the family has it not",
    ),
    "absent stack": (
        ToyBackbone, {"stacks": {"encoder": "blocks", "decoder": "decoder"}},
        "every_stack_has_blocks_and_every_block_one_stack", "a stack that no model has",
    ),
    "half a stack": (
        ToyBackbone, {"stacks": {"encoder": "blocks.0"}},
        "every_stack_has_blocks_and_every_block_one_stack", "is in no stack",
    ),
    "called after all": (
        ToyBackbone, {"direct_weights": ("blocks.*.up",)},
        "weights_that_are_read_directly_belong_to_no_call", "is called: leave it out",
    ),
    "no such weight": (
        ToyBackbone, {"direct_weights": ("blocks.*.upp",)},
        "weights_that_are_read_directly_belong_to_no_call", "matches no module",
    ),
    "direct untold": (
        ToyDecoderBackbone, {"direct_weights": ()}, "every_other_layer_is_called",
        r"attention\.output \(attention\.output\) never runs",
    ),
    "dead linear": (
        ToyDecoderBackbone, {"direct_weights": ()}, "no_linear_is_silently_dead",
        "got no gradient",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BACKBONES)
def test_a_fault_of_a_backbone_is_found(
    name: str, module: SimpleNamespace, with_plugin: Have, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, changes, test, sentence = BACKBONES[name]
    toy = next(
        toy for toy, (_, _, model) in kit.TOYS.items() if f"{model}Backbone" == base.__name__
    )
    module.Backbone = variant(base, **changes)
    spec = peftcore.installed().backbones[toy]
    monkeypatch.setitem(
        peftcore.installed()._specs["backbones"], toy, spec._replace(backbone="faulty:Backbone")
    )

    class Contract(BackboneContract):
        backbone = toy

    # a dead piece is an error, and before that a warning
    with pytest.raises((AssertionError, peftcore.PeftcoreError, UserWarning), match=sentence):
        getattr(Contract(), f"test_{test}")()


class TwoPasses(ToyDecoder):
    def forward(self, input_ids: Tensor, attention_mask: Tensor, *rest: Any, **named: Any) -> Any:
        super().forward(input_ids, attention_mask)
        return super().forward(input_ids, attention_mask, *rest, **named)


class OutsideOfTheEntry(ToyDecoder):
    def generate(self, input_ids: Tensor, attention_mask: Tensor, **_: Any) -> Tensor:
        return self.network(input_ids, attention_mask).argmax(-1)


class ForgetfulCache(ToyDecoder):
    def generate(self, input_ids: Tensor, attention_mask: Tensor, **given: Any) -> Tensor:
        written = super().generate(input_ids, attention_mask, **given)
        return written + 1 if given["use_cache"] else written


@pytest.mark.parametrize(
    ("model", "test", "sentence"),
    [
        (TwoPasses, "every_pass_is_one_pass_of_the_whole_if_it_says_so", "runs 2 times"),
        (OutsideOfTheEntry, "every_pass_is_one_pass_of_the_whole_if_it_says_so", "outside of"),
        (ForgetfulCache, "a_cache_is_taken_and_changes_nothing", "other words"),
    ],
)
def test_a_model_that_belies_its_backbone_is_found(
    model: type[nn.Module], test: str, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ToyDecoderBackbone, "tiny", lambda self, head="none": model())

    class Contract(BackboneContract):
        backbone = "toy-decoder"

    with pytest.raises(AssertionError, match=sentence):
        getattr(Contract(), f"test_{test}")()


class OnDisk(ToyBackbone):
    """A toy that is loaded from a file, with a head that the file does not have."""

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        model = self.build(source, head=head).eval()
        state = torch.load(f"{source}/toy.pt")
        model.load_state_dict(state)
        return Loaded(model, fresh=self.fresh(source, head), source=source)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        loaded = super().load_on_meta(source, head=head, **options)
        return Loaded(loaded.model, fresh=self.fresh(source, head), source=source)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        return self.tiny(head=head)

    def fresh(self, source: str, head: str) -> tuple[str, ...]:
        return () if head in ("none", Path(source).name) else ("head.weight", "head.bias")


class ForgetsWeights(OnDisk):
    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        return Loaded(self.build(source).eval(), fresh=self.fresh(source, head))


class StaysInTraining(OnDisk):
    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        loaded = super().load(source, head=head)
        loaded.model.train()
        return loaded


class TakesTheHeadAsRead(OnDisk):
    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        return Backbone.load_on_meta(self, source, head=head, **options)


class ReadsWeights(OnDisk):
    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        return self.load(source, head=head, **options)


class PlansAnother(OnDisk):
    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        model: Any = super().build(config, head=head)
        if model.head.weight.is_meta:
            model.head = nn.Linear(model.head.in_features, 7, device="meta")
        return model


class RefusesPlans(OnDisk):
    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        raise ConfigError("nothing can be planned of this family.")


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        (OnDisk, ""),
        (ForgetsWeights, "load: embeddings.weight is not what was saved"),
        (StaysInTraining, "load returns a model in training mode"),
        (TakesTheHeadAsRead, "head other: fresh of load and of load_on_meta differ in head.bias"),
        (ReadsWeights, "head none: load_on_meta reads embeddings.weight"),
        (PlansAnother, r"head.weight is \(\(3, 16\), .* by load and \(\(7, 16\)"),
        (RefusesPlans, "load_on_meta says nothing can be planned"),
    ],
)
def test_a_plan_of_another_model_than_is_loaded_is_found(
    kind: type[Backbone], sentence: str, module: SimpleNamespace, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    module.Backbone = kind
    spec = peftcore.installed().backbones["toy"]._replace(backbone="faulty:Backbone")
    monkeypatch.setitem(peftcore.installed()._specs["backbones"], "toy", spec)

    class Contract(BackboneContract):
        backbone = "toy"
        heads = ("none", "other")

        def save(self, model: nn.Module, folder: Path) -> None:
            torch.save(model.state_dict(), folder / "toy.pt")

    with pytest.raises(AssertionError, match=sentence) if sentence else nullcontext():
        Contract().test_what_was_saved_is_loaded_and_needs_no_weights_for_a_plan(tmp_path)
