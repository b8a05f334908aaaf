from pathlib import Path

import pytest
from timm.models import save_for_hf
from torch import nn

import peftcore
from peftcore import survey
from peftcore.testing import BackboneContract, loss_of, tiny


class TimmContract(BackboneContract):
    def save(self, model: nn.Module, folder: Path) -> None:
        save_for_hf(model, str(folder), safe_serialization=True)


class TestTimmVit(TimmContract):
    backbone = "timm-vit"
    heads = ("none", "image-classification")


class TestTimmBeit(TimmContract):
    backbone = "timm-beit"
    heads = ("none", "image-classification")


class TestTimmSwinV2(TimmContract):
    backbone = "timm-swin-v2"
    heads = ("none", "image-classification")


class TestTimmCnn(TimmContract):
    backbone = "timm-cnn"
    heads = ("image-classification",)  # without it there is no linear layer

    def test_blocks_have_a_width(self) -> None:
        """Every block has its own: the stream of a CNN grows from stage to stage."""
        knows, model, _ = tiny(self.backbone)
        widths = [s.layer.out_features for s in survey(model, knows).sites if s.role == "block"]
        assert widths == [16, 16, 24, 32]

    def test_no_convolution_is_silently_dead(self) -> None:
        _, model, batch = tiny(self.backbone)
        adapter = peftcore.attach(model, "ssf", targets=["conv", "norm"])
        loss_of(model(**batch)).backward()
        adapter.check_alive()


class TestVisionLanguage(BackboneContract):
    backbone = "vision-language"
    heads = ("none", "image-text-to-text")


class TestClipVision(BackboneContract):
    backbone = "clip-vision"

    @pytest.mark.parametrize("attention", ["eager", "sdpa"])
    def test_every_attention_implementation_calls_the_projections(self, attention: str) -> None:
        _, model, batch = tiny(self.backbone)
        model.set_attn_implementation(attention)
        adapter = peftcore.attach(model, "probe", targets=["attention.{query,key,value,output}"])
        loss_of(model(**batch)).backward()
        adapter.check_alive()
