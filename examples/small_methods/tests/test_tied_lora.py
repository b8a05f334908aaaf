import copy
from pathlib import Path

import peftcore
import pytest
import torch
from peftcore.testing import perturb, run, same, tiny
from torch import Tensor, nn


class Language(nn.Module):
    """A table, a layer, and scores of all tokens; the output may stand first in the model."""

    def __init__(self, *, tied: bool = True, first: bool = False) -> None:
        super().__init__()
        if first:
            self.output = nn.Linear(6, 11)
        self.table = nn.Embedding(11, 6, padding_idx=0)
        self.inner = nn.Linear(6, 6)
        if not first:
            self.output = nn.Linear(6, 11)
        if tied:
            self.output.weight = self.table.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.output(torch.tanh(self.inner(self.table(ids))))


IDS = torch.tensor([[1, 4, 7], [2, 2, 9]])


@pytest.mark.parametrize("first", [False, True])
def test_one_pair_of_factors_changes_the_table_and_the_output(first: bool) -> None:
    model = Language(first=first)
    adapter = peftcore.attach(model, "tied_lora", rank=2, alpha=3)
    assert len(adapter.placed) == 2 and len(adapter.parameters()) == 2
    assert adapter.plan.trainable == 2 * (11 + 6)
    perturb(adapter)
    down, up = adapter.parameters()
    table = model.table.weight + 1.5 * up @ down
    inner = torch.tanh(model.inner(table[IDS]))
    torch.testing.assert_close(model(IDS), inner @ table.T + model.output.bias)


def test_merging_changes_the_tied_table_once_and_gives_it_back_exactly() -> None:
    model = Language()
    adapter = peftcore.attach(model, "tied_lora", rank=2)
    perturb(adapter)
    tuned, before = model(IDS), model.table.weight.detach().clone()
    down, up = adapter.parameters()
    adapter.merge()
    assert model.output.weight is model.table.weight
    torch.testing.assert_close(model.table.weight, before + up @ down)
    torch.testing.assert_close(model(IDS), tuned)
    adapter.unmerge()
    assert torch.equal(model.table.weight, before) and torch.equal(model(IDS), tuned)
    peftcore.merge_and_unload(model)
    torch.testing.assert_close(model(IDS), tuned)
    assert type(model.table) is nn.Embedding and model.output.weight is model.table.weight


def test_the_factors_are_stored_once_and_stay_shared_in_copies(tmp_path: Path) -> None:
    model = Language()
    adapter = peftcore.attach(model, "tied_lora", rank=2)
    perturb(adapter)
    tuned = model(IDS)
    adapter.save(tmp_path / "tied")
    assert len(peftcore.inspect(tmp_path / "tied")["tensors"]) == 2
    twin = peftcore.adapters(copy.deepcopy(model))["default"]
    assert twin.placed[0].piece.factors is twin.placed[1].piece.factors
    assert twin.placed[0].piece.factors is not adapter.placed[0].piece.factors
    adapter.detach()
    loaded = peftcore.load(model, tmp_path / "tied")
    assert torch.equal(model(IDS), tuned)
    assert loaded.placed[0].piece.factors is loaded.placed[1].piece.factors


def test_both_places_teach_the_factors() -> None:
    model = Language()
    adapter = peftcore.attach(model, "tied_lora", rank=2)
    perturb(adapter)
    down, up = adapter.parameters()
    (whole,) = torch.autograd.grad(model(IDS).square().sum(), [up])
    assert bool((whole != 0).any(1).all()), "scores depend on all tokens, those not read too"
    with torch.no_grad():
        table = model.table.weight + up @ down
    fixed = torch.tanh(model.inner(table[IDS]))
    scores = fixed @ (model.table.weight + up @ down).T + model.output.bias
    (one,) = torch.autograd.grad(scores.square().sum(), [up])
    unread = [token for token in range(11) if token not in IDS.flatten().tolist()]
    torch.testing.assert_close(whole[unread], one[unread])
    assert not torch.allclose(whole[1], one[1])


def test_where_nothing_is_tied_the_table_alone_is_changed() -> None:
    model = Language(tied=False)
    adapter = peftcore.attach(model, "tied_lora", rank=2)
    assert [item.site.path for item in adapter.placed] == ["table"]
    perturb(adapter)
    tuned, output = model(IDS), model.output.weight.detach().clone()
    adapter.merge()
    torch.testing.assert_close(model(IDS), tuned)
    assert torch.equal(model.output.weight, output)


def test_a_change_of_one_of_two_tied_places_cannot_be_merged() -> None:
    model = Language()
    adapter = peftcore.attach(model, "probe", targets=["path:output"])
    with pytest.raises(peftcore.MergeError, match="are one tied parameter, and merging would"):
        adapter.merge()
    tied = {"method": "tied_lora", "rank": 2}
    methods = [tied, {"method": "probe", "targets": ["path:output"]}]
    both = peftcore.attach(model, methods, name="both")
    perturb(both)
    tuned = model(IDS)
    with pytest.raises(peftcore.MergeError, match="are one tied parameter, and merging would"):
        both.merge()
    assert torch.equal(model(IDS), tuned)


def test_the_language_model_of_a_known_family_is_merged_as_well() -> None:
    _, model, batch = tiny("bert", "masked-lm")
    adapter = peftcore.attach(model, "tied_lora", rank=2)
    assert sorted(item.site.kind for item in adapter.placed) == ["embedding", "linear"]
    perturb(adapter)
    tuned = run(model, batch)
    adapter.merge()
    for one, other in zip(run(model, batch), tuned, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    adapter.unmerge()
    assert same(run(model, batch), tuned)
