import torch
from peftcore import LayerInfo
from peftcore.testing import MethodContract
from peftcore_tinylora.method import LowRank


class TestTinylora(MethodContract):
    method = "tinylora"
    config = {"rank": 2}


def test_the_update_is_the_product_of_its_factors():
    piece = LowRank(LayerInfo("linear", 6, 4), rank=2)
    torch.nn.init.normal_(piece.up)
    x = torch.randn(3, 6)
    torch.testing.assert_close(piece(x), x @ (piece.up @ piece.down).T)
    assert sum(p.numel() for p in piece.parameters()) == 2 * (6 + 4)
