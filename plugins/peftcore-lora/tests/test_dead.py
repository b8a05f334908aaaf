"""A piece that trains nothing is told in a loop that knows nothing of peftcore."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import MambaConfig, MambaForCausalLM

import peftcore
from peftcore import Adapter, DeadPieceError

#: Mamba's scan reads the weight of dt_proj and never calls the layer.
DEAD = re.escape("backbone.layers.0.mixer.dt_proj.lora.lora_A and 3 more of adapter 'default' got")
IDS = torch.arange(1, 17).view(2, 8)


def trained(exclude: list[str]) -> tuple[nn.Module, Adapter]:
    """Return a Mamba after one forward and one backward pass of an own loop."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4}
    model = MambaForCausalLM(MambaConfig(**sizes)).train()
    targets = {"roles": ["all-linear"], "exclude": exclude}
    adapter = peftcore.attach(model, "lora", rank=2, targets=targets)
    model(IDS, labels=IDS).loss.backward()
    return model, adapter


@pytest.mark.parametrize("then", ["the next forward", "save"])
def test_a_weight_that_the_model_reads_is_told_at_the_next_step_or_when_saving(
    then: str, tmp_path: Path
) -> None:
    model, adapter = trained([])
    steps = {"the next forward": lambda: model(IDS), "save": lambda: adapter.save(tmp_path / "a")}
    with pytest.warns(UserWarning, match=DEAD):
        steps[then]()
    with pytest.raises(DeadPieceError, match=DEAD):
        adapter.check_alive()


def test_what_trains_is_passed_without_a_word(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    model, adapter = trained(["path:**.dt_proj"])
    model(IDS)
    adapter.save(tmp_path / "adapter")
    adapter.check_alive()
    assert not [w for w in recwarn if "got no gradient" in str(w.message)]
