"""The contract of methods lets none of these faults through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from peftcore import (
    Delta,
    Method,
    MethodConfig,
    MethodSpec,
    PeftcoreError,
    Piece,
    Site,
    Targets,
    hookimpl,
)
from peftcore.testing import (
    MethodContract,
)

Have = Callable[..., Any]


class Config(MethodConfig):
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "mlp.up"]), description="Where."
    )


class Summand(Delta):
    def __init__(self, site: Site):
        super().__init__()
        self.a = nn.Parameter(0.1 * torch.randn(2, site.layer.in_features))
        self.b = nn.Parameter(torch.zeros(site.layer.out_features, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a.T @ self.b.T

    def weight_delta(self) -> Tensor:
        return self.b @ self.a


class Plain(Method):
    kind: type[Piece] = Summand

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        return self.kind(site) if site.matches(self.config.targets) else None  # type: ignore


class PenaltyRaises(Plain):
    @hookimpl
    def peftcore_extra_loss(self) -> None:
        raise RuntimeError("extra_loss was called")


class StepRaises(Plain):
    @hookimpl
    def peftcore_after_step(self, step: int) -> None:
        raise RuntimeError("after_step was called")


class BeforeRaises(Plain):
    @hookimpl
    def peftcore_before_run(self, steps: int) -> None:
        raise RuntimeError("before_run was called")


class AfterRaises(Plain):
    @hookimpl
    def peftcore_after_run(self) -> None:
        raise RuntimeError("after_run was called")


class RatesRaise(Plain):
    @hookimpl
    def peftcore_learning_rates(self, site: Site, piece: Piece) -> None:
        raise RuntimeError("learning_rates was called")


class Unstored(Summand):
    """What the piece computes with is drawn anew wherever it is made."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.drawn = torch.randn(site.layer.out_features, 2)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a.T @ (self.b + self.drawn).T


class FromRoundedWeight(Summand):
    """A factor that hangs on the last bits of the base's weight, taken wherever it is made."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.sign = (site.weight()[:, :2].float() * 4096).round() % 2

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.a.T @ (self.b + self.sign.to(x)).T


class Counting(Summand):
    """Its second call differs from the first."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return super().forward(x) * self.calls


class Shared(Summand):
    """Copies share their tensors with the original."""

    def __deepcopy__(self, memo: Any) -> Shared:
        return self


class Positional(Summand):
    """Looks at how many tokens come in a call, which a cache changes."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (30.0 if x.shape[1] > 1 else -30.0)


class ChangesTheBase(Plain):
    """Writes to values of a weight that the core's own look at it does not see."""

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        if site.matches(self.config.targets):
            site.module.weight.data[0].zero_()  # type: ignore
            return Summand(site)
        return None


class Forgetful(Summand):
    """What was trained is not in a pickle."""

    def __getstate__(self) -> Any:
        kept = super().__getstate__()  # type: ignore[misc]
        return {**kept, "_parameters": {**kept["_parameters"], "b": nn.Parameter(0 * self.b)}}


class Forgets(Plain):
    kind = Forgetful


class MergesHalf(Summand):
    def weight_delta(self) -> Tensor:
        return 0.5 * self.b @ self.a


class Averaging(Summand):
    """A row depends on what else is in its batch."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x - x.mean(0, keepdim=True))


class ReadsTheModule(Summand):
    """Takes for granted that the layer keeps its weight as torch does."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.scale = float(site.module.weight.abs().mean())  # type: ignore


class Breaking(Summand):
    """Looks at a value, which no compiled graph can."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * (1.0 if self.b.sum().item() > 0 else 2.0)


class Unused(Summand):
    """Trains a tensor that it does not use."""

    def __init__(self, site: Site):
        super().__init__(site)
        self.c = nn.Parameter(torch.zeros(2))


class Common(Summand):
    """All adapters have one and the same tensor."""

    one: dict[Any, Any] = {}

    def __init__(self, site: Site):
        super().__init__(site)
        self.b = Common.one.setdefault(site.path, self.b)


def method(piece: type[Piece]) -> type[Method]:
    return type("Made", (Plain,), {"kind": piece})


METHODS: dict[str, tuple[type[Method], str, dict[str, Any], str]] = {
    "penalty": (PenaltyRaises, "the_loss_falls_and_the_base_stays", {}, "extra_loss was called"),
    "step": (StepRaises, "the_loss_falls_and_the_base_stays", {}, "after_step was called"),
    "before": (BeforeRaises, "the_loss_falls_and_the_base_stays", {}, "before_run was called"),
    "after": (AfterRaises, "the_loss_falls_and_the_base_stays", {}, "after_run was called"),
    "rates": (RatesRaise, "the_loss_falls_and_the_base_stays", {}, "learning_rates was called"),
    "changes the base": (
        ChangesTheBase,
        "a_plan_leaves_the_model_as_it_was",
        {},
        "blocks.0.attention.query.weight has other values",
    ),
    "starts elsewhere": (
        method(Unstored),
        "it_starts_as_the_base_or_says_that_it_does_not",
        {},
        r"faulty changes the base at its start, first at blocks\.0\.attention\.query",
    ),
    "derived": (
        method(FromRoundedWeight),
        "it_loads_on_the_same_base_in_half_precision",
        {"tmp_path": Path},
        "more than rounding explains",
    ),
    "unstored": (
        method(Unstored),
        "saving_and_loading_gives_the_same_outputs",
        {"tmp_path": Path},
        r"computes otherwise once loaded, first at blocks\.0\.attention\.query",
    ),
    "recomputed": (
        method(Counting),
        "checkpointed_blocks_give_the_same_gradients",
        {"use_reentrant": False},
        r"gradient of blocks\.0\.attention\.query\.faulty\.a with checkpointing",
    ),
    "recomputed, reentrant": (
        method(Counting),
        "checkpointed_blocks_give_the_same_gradients",
        {"use_reentrant": True},
        r"gradient of blocks\.0\.attention\.query\.faulty\.a with checkpointing",
    ),
    "copies": (
        method(Shared),
        "a_copy_trains_on_as_the_original_does",
        {"how": "deepcopy"},
        r"changed the original, first at blocks\.0\.attention\.query",
    ),
    "pickles": (
        Forgets,
        "a_copy_trains_on_as_the_original_does",
        {"how": "pickle"},
        r"the pickle computes something else, first at blocks\.0\.attention\.query",
    ),
    "merged": (
        method(MergesHalf),
        "merging_keeps_the_outputs_and_can_be_undone_exactly",
        {},
        r"faulty merged, first at blocks\.0\.attention\.query \(attention\.query\)",
    ),
    "rows": (
        method(Averaging),
        "rows_of_one_batch_can_have_their_own_adapters",
        {},
        "row 0, adapter a",
    ),
    "quantised": (
        method(ReadsTheModule),
        "it_works_on_a_quantised_base",
        {},
        r"failed at blocks\.0\.attention\.query \(attention\.query\)",
    ),
    "graph": (method(Breaking), "compiled_it_gives_the_same", {}, "item"),
    "unused": (
        method(Unused),
        "all_that_is_trained_gets_a_gradient_and_the_base_gets_none",
        {},
        r"blocks\.0\.attention\.query\.faulty\.c and 3 more",
    ),
    "common": (method(Common), "two_adapters_act_one_at_a_time", {}, "adapter a is not what it"),
    "recomputed on a real model": (
        method(Counting),
        "checkpointing_of_a_real_model_gives_the_same_gradients",
        {"use_reentrant": False},
        "with checkpointing",
    ),
    "cache": (
        method(Positional),
        "generation_with_a_cache_is_generation_without",
        {},
        "writes other words with a cache",
    ),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_fault_of_a_method_is_found(
    name: str, module: SimpleNamespace, with_plugin: Have, tmp_path: Path
) -> None:
    kind, test, arguments, sentence = METHODS[name]
    module.Config, module.Method = Config, kind
    with_plugin(MethodSpec("faulty", "A.", "faulty:Config", "faulty:Method"))

    class Contract(MethodContract):
        method = "faulty"

    if "tmp_path" in arguments:
        arguments = {"tmp_path": tmp_path}
    with pytest.raises((AssertionError, RuntimeError, PeftcoreError), match=sentence):
        getattr(Contract(), f"test_{test}")(**arguments)


class RankedConfig(Config):
    rank: int = Field(2, description="Rank.")


class FailsAtRankThree(Plain):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Any:
        assert self.config.rank != 3, "rank 3 is not thought of"
        return super().peftcore_rewrite_module(site)


def test_the_configuration_of_the_contract_is_used_on_every_backbone(
    module: SimpleNamespace, with_plugin: Have
) -> None:
    module.Config, module.Method = RankedConfig, FailsAtRankThree
    with_plugin(MethodSpec("faulty", "A.", "faulty:Config", "faulty:Method"))

    class Contract(MethodContract):
        method = "faulty"
        config = {"rank": 3}
        on = {"roberta": {"rank": 4}}

    with pytest.raises(AssertionError, match=r"on bert: .* failed at .*: rank 3 is not thought of"):
        Contract().test_it_works_on_every_installed_backbone("bert")
    Contract().test_it_works_on_every_installed_backbone("roberta")


def test_a_method_without_a_fault_passes_all_of_these(
    module: SimpleNamespace, with_plugin: Have, tmp_path: Path
) -> None:
    module.Config, module.Method = Config, Plain
    with_plugin(MethodSpec("faulty", "A.", "faulty:Config", "faulty:Method"))

    class Contract(MethodContract):
        method = "faulty"

    for number, (_, test, arguments, _) in enumerate(METHODS.values()):
        if "tmp_path" in arguments:
            (tmp_path / str(number)).mkdir()
            arguments = {"tmp_path": tmp_path / str(number)}
        getattr(Contract(), f"test_{test}")(**arguments)


def test_a_name_from_behind_the_face_of_the_core_is_named_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_plugin: Have
) -> None:
    package = tmp_path / "peftcore_hidden"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "method.py").write_text(
        "from peftcore import Delta\nfrom peftcore.run.program import Program\n"
        "from peftcore import Delt\nimport peftcore.adapter.state\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with_plugin(MethodSpec("hidden", "A.", "peftcore_hidden.method:C", "peftcore_hidden.method:M"))

    class Contract(MethodContract):
        method = "hidden"

    with pytest.raises(AssertionError, match=r"method\.py:2 imports Program from peftcore\.run"):
        Contract().test_the_plugin_imports_public_names_of_peftcore_alone()
    from peftcore.testing.imports import hidden_names

    (one, two, three) = sorted(set(hidden_names("peftcore_hidden")))
    assert (
        "method.py:3 imports Delt, which is no public name of peftcore. Did you mean Delta" in two
    )
    assert "method.py:4 imports peftcore.adapter.state, which is not public" in three and one
