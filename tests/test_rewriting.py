"""Pieces in modules, in place: every kind, on every way in which a module can be called."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import peftcore
from peftcore import (
    Around,
    Context,
    Delta,
    Method,
    MethodConfig,
    Piece,
    Reparam,
    Site,
    Structural,
    Transform,
)
from peftcore.errors import AttachError
from peftcore.registry.hookspecs import hookimpl
from peftcore.registry.installed import installed
from peftcore.registry.specs import MethodSpec
from peftcore.testing import Toy
from peftcore.testing.matrix import run, same, tiny


class Shift(Transform):
    """Adds a number to the hidden states."""

    def __init__(self, where: str, by: float):
        super().__init__()
        self.where = where
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        return hidden + self.by


class OnPrompt(Transform):
    """Adds a number at the prompt's tokens only."""

    def __init__(self) -> None:
        super().__init__()
        self.by = nn.Parameter(torch.tensor(1.0))

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        assert context.prompt is not None
        return hidden + self.by * context.prompt[:, :, None].to(hidden.dtype)


class Double(Reparam):
    """Scales the weight."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(2.0))

    def forward(self, weight: Tensor) -> Tensor:
        return weight * self.factor


class Twice(Around):
    """Runs the call and multiplies what it returns."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(3.0))

    def forward(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        return self.factor * call(*args, **kwargs)


class Constant(Delta):
    """Adds a bias."""

    def __init__(self, site: Site):
        super().__init__()
        self.bias = nn.Parameter(torch.full((site.layer.out_features,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.bias.expand(*x.shape[:-1], -1)

    def bias_delta(self) -> Tensor:
        return self.bias


class KitConfig(MethodConfig):
    kind: str
    targets: peftcore.Targets = ["mlp.up"]  # type: ignore[assignment]


class Kit(Method):
    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Piece | None:
        if not site.matches(self.config.targets):
            return None
        makers = {
            "output": lambda: Shift("output", 0.5),
            "input": lambda: Shift("input", 0.5),
            "double": Double,
            "twice": Twice,
            "constant": lambda: Constant(site),
            "prompt": OnPrompt,
        }
        return makers[self.config.kind]()


@pytest.fixture(autouse=True)
def _kit(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import sys

    # the tests are imported without a package; the reference needs a module of that name
    monkeypatch.setitem(sys.modules, __name__, sys.modules.get(__name__) or _module())
    spec = MethodSpec("kit", "Every kind of piece.", f"{__name__}:KitConfig", f"{__name__}:Kit")
    with installed().with_plugin(spec):
        yield


def _module() -> Any:
    from types import SimpleNamespace

    return SimpleNamespace(KitConfig=KitConfig, Kit=Kit)


def linear() -> tuple[nn.Sequential, Tensor]:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), torch.randn(5, 4)


def kit(model: nn.Module, *kinds: str, **options: Any) -> peftcore.Adapter:
    targets = options.pop("targets", ["path:0"])
    methods = [{"method": "kit", "kind": kind, "targets": targets} for kind in kinds]
    return peftcore.attach(model, methods, **options)


def test_the_order_is_reparams_base_deltas_transforms() -> None:
    model, x = linear()
    weight, bias = model[0].weight, model[0].bias
    kit(model, "twice", "output", "constant", "double", "input")
    expected = 3 * ((x + 0.5) @ (2 * weight).T + bias + 0.5 + 0.5)
    torch.testing.assert_close(model[0](x), expected)


def test_a_sequential_can_carry_a_piece_itself() -> None:
    outer = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.Tanh()))
    x = torch.randn(2, 4)
    before = outer(x)
    from peftcore.method.placed import Placed
    from peftcore.run.holder import ContextHolder
    from peftcore.run.rewriting import put, rewrite

    inner = outer[1]
    site = Site("1", "block", inner, peftcore.LayerInfo("module", 4, 4))
    rewrite(inner, ContextHolder(Structural()))
    put(inner, "a", Placed(site, "kit", "", Shift("output", 1.0)))
    assert len(inner) == 2 and len(list(inner)) == 2
    assert torch.equal(outer(x), before)


def test_identity_class_name_and_isinstance_stay() -> None:
    model, _ = linear()
    layer = model[0]
    kit(model, "constant")
    assert model[0] is layer and isinstance(layer, nn.Linear)
    assert type(layer) is not nn.Linear and type(layer).__name__ == "Linear"
    peftcore.detach(model)
    assert type(layer) is nn.Linear and not [k for k in vars(layer) if "peftcore" in k]


def test_a_bias_is_merged_even_where_there_was_none() -> None:
    model = nn.Sequential(nn.Linear(4, 6, bias=False))
    x = torch.randn(2, 4)
    adapter = kit(model, "constant")
    tuned = model(x)
    adapter.merge()
    assert model[0].bias is not None
    torch.testing.assert_close(model(x), tuned)
    adapter.unmerge()
    assert model[0].bias is None and torch.equal(model(x), tuned)


def test_merging_for_good_leaves_plain_modules() -> None:
    model, x = linear()
    kit(model, "double")
    tuned = model(x)
    peftcore.merge_and_unload(model)
    assert type(model[0]) is nn.Linear and not peftcore.adapters(model)
    torch.testing.assert_close(model(x), tuned)


def test_device_hooks_of_accelerate_still_reach_the_pieces() -> None:
    from accelerate.hooks import ModelHook, add_hook_to_module, remove_hook_from_module

    model, x = linear()
    bare = model(x)
    add_hook_to_module(model[0], ModelHook())
    adapter = kit(model, "constant")
    hooked = model(x)
    assert not torch.equal(hooked, bare)
    adapter.detach()
    assert torch.equal(model(x), bare)
    adapter = kit(model, "constant")
    remove_hook_from_module(model[0])
    assert torch.equal(model(x), hooked)
    add_hook_to_module(model[0], ModelHook())
    assert torch.equal(model(x), hooked)
    adapter.detach()
    assert torch.equal(model(x), bare)


def test_a_forward_replaced_by_something_unknown_is_refused() -> None:
    model, x = linear()
    before = model(x)
    model[0].forward = lambda x: nn.functional.linear(x, model[0].weight)  # type: ignore
    with pytest.raises(AttachError, match="forward of a Linear was replaced on the instance"):
        kit(model, "constant")
    del model[0].forward
    assert torch.equal(model(x), before) and not peftcore.adapters(model)
    assert type(model[0]) is nn.Linear


def test_a_failing_method_leaves_the_model_as_it_was() -> None:
    model, batch = _toy()
    before, flags = run(model, batch), [p.requires_grad for p in model.parameters()]
    with pytest.raises(peftcore.PluginError, match=r"failed at .*KeyError: 'no such kind'"):
        kit(model, "constant", "no such kind", targets=["mlp.up"])
    assert same(run(model, batch), before)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert not peftcore.adapters(model)


def _toy() -> tuple[Any, dict[str, Any]]:
    _, model, batch = tiny("toy")
    return model, batch


def test_the_context_of_a_checkpointed_block_survives_a_second_call() -> None:
    """Recomputation in backward sees the context of its own call, not of the last one."""
    from torch.utils.checkpoint import checkpoint

    class Checkpointed(nn.Module):
        gradient_checkpointing = True

        def __init__(self, block: nn.Module):
            super().__init__()
            self.block = block

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            from functools import partial

            return checkpoint(partial(super().__call__, **kwargs), *args, use_reentrant=False)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.block(x, mask)  # type: ignore[no-any-return]

    def gradient(wrap: bool) -> Tensor:
        torch.manual_seed(0)
        model = Toy().train()
        adapter = kit(model, "prompt", targets=["mlp.up"]) if not wrap else None
        if wrap:
            for i, block in enumerate(model.blocks):
                model.blocks[i] = Checkpointed(block)
            adapter = kit(model, "prompt", targets=["path:blocks.*.block.up"])
        assert adapter is not None
        ids = torch.arange(12).view(2, 6)
        first = {"input_ids": ids, "attention_mask": torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0]])}
        second = {"input_ids": ids + 3, "attention_mask": torch.tensor([[1, 1, 1, 0, 0, 0]] * 2)}
        loss = model(**first).logits.pow(2).sum() + model(**second).logits.pow(2).sum()
        loss.backward()
        return torch.stack([p.grad for p in adapter.parameters()])  # type: ignore[misc]

    torch.testing.assert_close(gradient(True), gradient(False))


def test_prompt_lengths_can_be_said_by_the_caller() -> None:
    model, batch = _toy()
    kit(model, "prompt", targets=["block"])
    everything = run(model, batch)
    with peftcore.prompt(model, torch.tensor([2, 1])):
        some = run(model, batch)
    with peftcore.prompt(model, torch.tensor([0, 0])):
        nothing = run(model, batch)
    with peftcore.disabled(model):
        assert same(run(model, batch), nothing)
    assert not same(everything, some) and not same(some, nothing)
    with (
        pytest.raises(AttachError, match="3 prompt lengths for a batch of 2 rows"),
        peftcore.prompt(model, torch.tensor([1, 1, 1])),
    ):
        model(**batch)


def test_selected_parameters_of_a_low_precision_base_train_in_fp32() -> None:
    model, batch = _toy()
    model = model.to(torch.bfloat16)
    before = run(model, batch)
    adapter = peftcore.attach(model, [], modules_to_save=["head"])
    assert {p.dtype for p in adapter.parameters()} == {torch.float32}
    assert same(run(model, batch), before)
    model(**batch).loss.backward()
    adapter.check_alive()


def test_values_of_several_adapters_are_swapped_not_copied() -> None:
    model, _ = _toy()
    base = model.head.weight
    a = peftcore.attach(model, [], name="a", modules_to_save=["head"])
    own = model.head.weight
    assert own is not base and own is a.swaps[0].own
    b = peftcore.attach(model, [], name="b", modules_to_save=["head"])
    assert model.head.weight is b.swaps[0].own
    with pytest.raises(AttachError, match=r"'a' and 'b' both hold a value for head\.weight"):
        peftcore.activate(model, "a", "b")
    assert model.head.weight is b.swaps[0].own
    b.detach()
    assert model.head.weight is base
    peftcore.activate(model, "a")
    assert model.head.weight is own
    a.detach()
    assert model.head.weight is base and base.requires_grad


def test_a_parked_parameter_follows_the_model_to_another_dtype() -> None:
    model, _ = _toy()
    adapter = peftcore.attach(model, [], modules_to_save=["head"])
    model.to(torch.float64)
    peftcore.activate(model)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    model.to(torch.float32)
    peftcore.activate(model, "default")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    adapter.detach()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_names_of_adapters_are_checked() -> None:
    model, _ = _toy()
    kit(model, "constant", name="a", targets=["mlp.up"])
    with pytest.raises(AttachError, match="already has an adapter 'a'"):
        kit(model, "constant", name="a", targets=["mlp.up"])
    with pytest.raises(AttachError, match="use letters, digits"):
        kit(model, "constant", name="a.b", targets=["mlp.up"])
    with pytest.raises(peftcore.PeftcoreError, match=r"has no adapter 'aa'\. Did you mean a"):
        peftcore.activate(model, "aa")


def test_a_batch_of_another_size_is_refused_in_routing_and_beams_are_repeated() -> None:
    model, batch = _toy()
    kit(model, "constant", name="a", targets=["mlp.up"])
    with (
        pytest.raises(AttachError, match="3 adapters are routed, but a call has 2 rows"),
        peftcore.route(model, ["a", None, "a"]),
    ):
        model(**batch)
    beams = {k: v.repeat_interleave(2, 0) for k, v in batch.items()}
    with peftcore.route(model, ["a", None]):
        two, four = model(**batch).logits, model(**beams).logits
    torch.testing.assert_close(four[::2], two)
    assert same(run(model, batch), run(copy.deepcopy(model), batch))
