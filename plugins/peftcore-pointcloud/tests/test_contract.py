"""The contract of backbones, with what is true of several scales."""

from peftcore import survey
from peftcore.testing import BackboneContract, tiny


class TestPointTransformer(BackboneContract):
    backbone = "point-transformer"
    heads = ("none", "point-classification")


class TestPointM2AE(BackboneContract):
    backbone = "point-m2ae"
    heads = ("none", "point-classification")

    def test_blocks_have_a_width(self) -> None:
        """Every scale has its own."""
        knows, model, _ = tiny(self.backbone)
        widths = [s.layer.out_features for s in survey(model, knows).sites if s.role == "block"]
        assert widths == [24, 32, 48]
