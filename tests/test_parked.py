"""What an adapter holds besides what sits in the model follows the model."""

import pytest
import torch

import peftcore
from peftcore.errors import UnknownName
from peftcore.testing import Toy
from peftcore.testing.matrix import perturb


@pytest.mark.parametrize("active", [True, False])
def test_a_model_that_is_cast_casts_what_its_adapters_have_parked(active: bool) -> None:
    torch.manual_seed(0)
    model = Toy().eval().to(torch.bfloat16)
    ids = torch.arange(8).view(2, 4)
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    adapter = peftcore.attach(model, [], modules_to_save=["path:blocks.0.up"])
    perturb(adapter)
    before = model(**batch).logits
    if not active:
        peftcore.activate(model)
    model.float()
    peftcore.activate(model, "default")
    after = model(**batch).logits
    assert after.dtype is torch.float32
    torch.testing.assert_close(after, before.float(), atol=0.05, rtol=0.05)
    adapter.detach()
    assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_to_detach_an_adapter_that_is_not_there_takes_none_off() -> None:
    model = Toy().eval()
    peftcore.attach(model, "lora").merge()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UnknownName, match=r"no adapter 'defualt'\. Did you mean default"):
        peftcore.detach(model, "default", "defualt")
    assert list(peftcore.adapters(model)) == ["default"]
    assert all(torch.equal(model.state_dict()[n], t) for n, t in before.items())
