"""What a peer does silently is an error here, raised before anything is changed (design, 10)."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import peftcore
from peftcore.errors import (
    AttachError,
    CheckpointError,
    ConfigError,
    DeadPieceError,
    MergeError,
    TargetError,
    UnknownName,
)
from peftcore.testing import Toy
from peftcore.testing.matrix import perturb, run, same, tiny


def toy() -> tuple[nn.Module, dict[str, Any]]:
    _, model, batch = tiny("toy")
    return model, batch


class Refused:
    """Checks that a call raises and leaves the model exactly as it was."""

    def __init__(self, error: type[Exception], match: str):
        self.expected = pytest.raises(error, match=match)
        self.model, self.batch = toy()
        self.before = run(self.model, self.batch)
        self.keys = list(self.model.state_dict())
        self.flags = [p.requires_grad for p in self.model.parameters()]

    def __enter__(self) -> nn.Module:
        self.expected.__enter__()
        return self.model

    def __exit__(self, *raised: Any) -> bool:
        swallowed = self.expected.__exit__(*raised)
        assert list(self.model.state_dict()) == self.keys
        assert [p.requires_grad for p in self.model.parameters()] == self.flags
        assert same(run(self.model, self.batch), self.before)
        assert not peftcore.adapters(self.model)
        return bool(swallowed)


def test_one_unmatched_target_among_several_is_an_error() -> None:
    with Refused(TargetError, r"'attention\.quer' matches nothing.*Did you mean attention\.query"):
        model, _ = toy()
        peftcore.attach(model, "probe", targets=["attention.value", "attention.quer"])


def test_all_unmatched_targets_are_reported_at_once() -> None:
    model, _ = toy()
    with pytest.raises(TargetError) as caught:
        peftcore.attach(model, "probe", targets=["mlp.gate", "conv"])
    assert len(caught.value.problems) == 2


def test_an_exclusion_that_matches_nothing_is_an_error() -> None:
    with Refused(TargetError, "'conv' matches nothing") as model:
        peftcore.attach(model, "probe", targets={"roles": ["mlp.up"], "exclude": ["conv"]})


def test_a_module_to_train_that_does_not_exist_is_an_error() -> None:
    with Refused(
        TargetError, "modules_to_save: 'heda' is no role and no module.*mean head"
    ) as model:
        peftcore.attach(model, "probe", modules_to_save=["heda"])


@pytest.mark.parametrize("layers", ["0-2", "7", (0, 5), "last 3"])
def test_a_layer_range_beyond_the_model_is_an_error(layers: Any) -> None:
    with Refused(TargetError, r"the model has 2 blocks \(0 to 1\)") as model:
        peftcore.attach(model, "probe", targets={"roles": ["mlp.up"], "layers": layers})


def test_an_unknown_method_names_the_nearest_one() -> None:
    with Refused(UnknownName, "unknown method 'prob'. Did you mean probe?") as model:
        peftcore.attach(model, "prob")


def test_several_wrong_configurations_are_reported_at_once() -> None:
    model, _ = toy()
    with pytest.raises(ConfigError) as caught:
        peftcore.attach(model, [{"method": "probe", "tragets": 1}, {"rank": 3}])
    assert caught.value.problems[0].startswith("methods[0].tragets is not a field of probe. Did")
    assert caught.value.problems[1].startswith("methods[1] has no 'method'")


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_tensors_that_do_not_fit_are_an_error_when_loading(change: str, tmp_path: Path) -> None:
    from safetensors.torch import save as to_bytes

    from peftcore.store.checkpoint import TENSORS, digest, read

    model, batch = toy()
    adapter = peftcore.attach(model, "probe", targets=["mlp.up", "mlp.down"])
    adapter.save(tmp_path)
    adapter.detach()
    description, tensors = read(tmp_path)
    name = "blocks.0.up.probe.change"
    if change == "missing":
        del tensors[name]
    elif change == "unexpected":
        tensors["blocks.7.up.probe.change"] = torch.zeros(2, 2)
    else:
        tensors[name] = tensors[name][:, :-1].contiguous()
    digests = {k: digest(v) for k, v in tensors.items()}
    text = description.model_copy(update={"digests": digests}).signed()
    (tmp_path / TENSORS).write_bytes(to_bytes(tensors, {"peftcore": text}))
    before = run(model, batch)
    wrong = "blocks.7.up.probe.change" if change == "unexpected" else name
    with pytest.raises(CheckpointError, match=wrong):
        peftcore.load(model, tmp_path)
    assert same(run(model, batch), before) and not peftcore.adapters(model)


def test_an_adapter_of_a_deeper_model_is_refused(tmp_path: Path) -> None:
    model, _ = toy()
    peftcore.attach(model, "probe").save(tmp_path)
    short = Toy()
    short.blocks = short.blocks[:1]
    with pytest.raises(CheckpointError, match="another base"):
        peftcore.load(short, tmp_path)
    with pytest.raises(CheckpointError, match=r"tensor blocks\.1\..* has no place in this model"):
        peftcore.load(short, tmp_path, allow_other_base=True)


def test_a_base_of_the_same_shape_with_other_weights_is_refused(tmp_path: Path) -> None:
    model, batch = toy()
    adapter = peftcore.attach(model, "probe")
    perturb(adapter)
    adapter.save(tmp_path)
    torch.manual_seed(99)
    other = Toy().eval()
    before = run(other, batch)
    with pytest.raises(CheckpointError, match="same shapes but other weights"):
        peftcore.load(other, tmp_path)
    assert same(run(other, batch), before)
    peftcore.load(other, tmp_path, allow_other_base=True)
    assert not same(run(other, batch), before)


def test_the_same_base_in_bf16_is_the_same_base(tmp_path: Path) -> None:
    model, _ = toy()
    peftcore.attach(model, "probe").save(tmp_path)
    peftcore.detach(model)
    peftcore.load(model.to(torch.bfloat16), tmp_path)


class Shared(nn.Module):
    """One linear under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = self.one
        self.other = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.other(self.two(self.one(x)))  # type: ignore[no-any-return]


def test_a_module_used_in_two_places_is_refused() -> None:
    model = Shared()
    with pytest.raises(AttachError, match="one and two are one and the same module"):
        peftcore.attach(model, "probe", targets=["linear"])
    peftcore.attach(model, "probe", targets={"roles": ["linear"], "exclude": ["path:one"]})


class Tied(nn.Module):
    """An embedding whose table is the head's weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.lm_head = nn.Linear(4, 7, bias=False)
        self.lm_head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.lm_head(self.embed(ids))  # type: ignore[no-any-return]


def test_merging_into_a_tied_weight_is_refused_until_it_is_untied() -> None:
    model, ids = Tied(), torch.arange(7)
    adapter = peftcore.attach(model, "probe", targets=["linear"])
    perturb(adapter)
    tuned = model(ids)
    with pytest.raises(MergeError, match=r"embed\.weight and lm_head\.weight are one tied"):
        adapter.merge()
    assert torch.equal(model(ids), tuned)
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone(), requires_grad=False)
    adapter.merge()
    torch.testing.assert_close(model(ids), tuned)
    torch.testing.assert_close(model.embed.weight, model.embed.weight)


class Reads(nn.Module):
    """Hands the weight of a linear to a function, as some attention layers do."""

    def __init__(self) -> None:
        super().__init__()
        self.proj = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(x, self.proj.weight, self.proj.bias)


def test_a_piece_that_never_runs_is_found_by_the_check() -> None:
    model = Reads()
    adapter = peftcore.attach(model, "probe", targets=["linear"])
    out = model(torch.randn(2, 4))
    assert not out.requires_grad
    with pytest.raises(DeadPieceError, match=r"proj\.probe\.change of adapter 'default' got no"):
        adapter.check_alive()
