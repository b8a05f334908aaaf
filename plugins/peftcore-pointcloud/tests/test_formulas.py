"""Networks against the formulas of their papers, written plainly; neighbours by brute force."""

import numpy as np
import pytest
import torch
from torch import Tensor

from peftcore.testing import tiny
from peftcore_pointcloud import neighbours
from peftcore_pointcloud.masked import chamfer


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def brute_farthest(cloud: np.ndarray, count: int) -> list[int]:
    chosen = [0]
    while len(chosen) < count:
        apart = [min(((p - cloud[c]) ** 2).sum() for c in chosen) for p in cloud]
        chosen.append(int(np.argmax(apart)))
    return chosen


def test_farthest_points_are_those_of_a_loop_and_neighbours_those_of_sorting():
    clouds = torch.randn(3, 40, 3)
    found = neighbours.farthest_points(clouds, 12)
    for row, cloud in zip(found.tolist(), clouds.numpy(), strict=True):
        assert row == brute_farthest(cloud, 12)
    centres = neighbours.gathered(clouds, found)
    near = neighbours.nearest(clouds, centres, 5)
    for b in range(3):
        for g in range(12):
            apart = ((clouds[b] - centres[b, g]) ** 2).sum(1)
            assert near[b, g].tolist() == apart.sort(stable=True).indices[:5].tolist()
            assert near[b, g, 0] == found[b, g]


def test_kernels_are_used_where_they_are_installed_and_find_the_same(monkeypatch):
    clouds = torch.randn(3, 40, 3)
    plain = neighbours.farthest_points(clouds, 12), neighbours.nearest(clouds, clouds[:, :7], 5)
    called = []

    def fps(x: Tensor, batch: Tensor, ratio: float, random_start: bool, rows: int) -> Tensor:
        called.append("fps")
        assert not random_start and x.shape == (120, 3) and batch.bincount().tolist() == [40] * 3
        count = -int(-ratio * 40 // 1)
        return torch.tensor(
            [
                40 * b + i
                for b in range(rows)
                for i in brute_farthest(x[40 * b :][:40].numpy(), count)
            ]
        )

    def knn(x: Tensor, y: Tensor, k: int, batch_x: Tensor, batch_y: Tensor) -> Tensor:
        called.append("knn")
        apart = torch.cdist(y, x) + 1e6 * (batch_y[:, None] != batch_x)
        index = apart.topk(k, largest=False).indices
        return torch.stack([torch.arange(len(y)).repeat_interleave(k), index.flatten()])

    monkeypatch.setattr(neighbours, "KERNELS", neighbours.Kernels(fps, knn))
    assert torch.equal(neighbours.nearest(clouds, clouds[:, :7], 5), plain[1])
    assert torch.equal(neighbours.farthest_points(clouds, 12), plain[0])
    assert called == ["knn"]  # plain torch is faster on a CPU
    kernels = neighbours.Kernels(fps, knn)
    assert torch.equal(neighbours._farthest_by_kernel(kernels, clouds, 12), plain[0])


def layer(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    weight = w[f"{name}.weight"]
    return x @ weight.reshape(weight.shape[:2]).T + w.get(f"{name}.bias", 0)


def scaled(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    mean, variance = w[f"{name}.running_mean"], w[f"{name}.running_var"]
    return (x - mean) / (variance + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def normed(x: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    apart = x - x.mean(-1, keepdim=True)
    unit = apart / (apart.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return unit * w[f"{name}.weight"] + w[f"{name}.bias"]


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def point_net(groups: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    x = layer(groups, w, f"{name}.first_conv.0")
    x = layer(scaled(x, w, f"{name}.first_conv.1").relu(), w, f"{name}.first_conv.3")
    x = torch.cat([x.amax(-2, keepdim=True).expand_as(x), x], -1)
    x = layer(x, w, f"{name}.second_conv.0")
    return layer(scaled(x, w, f"{name}.second_conv.1").relu(), w, f"{name}.second_conv.3").amax(-2)


def block(x: Tensor, w: dict[str, Tensor], name: str, heads: int, hidden: Tensor | None) -> Tensor:
    width = x.shape[-1] // heads
    q, k, v = layer(normed(x, w, f"{name}.norm1"), w, f"{name}.attn.qkv").chunk(3, -1)
    out = []
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        scores = q[..., part] @ k[..., part].transpose(-1, -2) / width**0.5
        if hidden is not None:
            scores = scores.masked_fill(hidden, -torch.inf)
        out.append(scores.softmax(-1) @ v[..., part])
    x = x + layer(torch.cat(out, -1), w, f"{name}.attn.proj")
    inner = gelu(layer(normed(x, w, f"{name}.norm2"), w, f"{name}.mlp.fc1"))
    return x + layer(inner, w, f"{name}.mlp.fc2")


def groups_of(points: Tensor, count: int, size: int) -> tuple[Tensor, list[list[list[int]]]]:
    centres, index = [], []
    for cloud in points:
        chosen = brute_farthest(cloud.numpy(), count)
        centres.append(cloud[chosen])
        index.append(
            [((cloud - cloud[c]) ** 2).sum(1).sort().indices[:size].tolist() for c in chosen]
        )
    return torch.stack(centres), index


def position(centres: Tensor, w: dict[str, Tensor], name: str) -> Tensor:
    return layer(gelu(layer(centres, w, f"{name}.0")), w, f"{name}.2")


def taken(rows: Tensor, index: list[list[list[int]]]) -> Tensor:
    return torch.stack([row[torch.tensor(i)] for row, i in zip(rows, index, strict=True)])


def moved(model: torch.nn.Module) -> dict[str, Tensor]:
    """Give every tensor values that no start has, and return them."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(
                    torch.rand(value.shape) + 0.5
                    if "var" in name
                    else value + 0.2 * torch.randn(value.shape)
                )
    return dict(model.state_dict())


@torch.no_grad()
def test_point_bert_is_its_formula():
    _, model, batch = tiny("point-transformer", "point-classification")
    w, points = moved(model), batch["points"]
    centres, index = groups_of(points, 8, 4)
    x = layer(point_net(taken(points, index) - centres[:, :, None], w, "encoder"), w, "reduce_dim")
    where = position(centres, w, "pos_embed")
    x = torch.cat([w["cls_token"].expand(2, -1, -1), x], 1)
    where = torch.cat([w["cls_pos"].expand(2, -1, -1), where], 1)
    for i in range(2):
        x = block(x + where, w, f"blocks.blocks.{i}", 4, None)
    x = normed(x, w, "norm")
    features = torch.cat([x[:, 0], x[:, 1:].amax(1)], -1)
    logits = layer(layer(features, w, "cls_head_finetune.0").relu(), w, "cls_head_finetune.3")
    torch.testing.assert_close(model(points), logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("wide", [False, True])
def test_point_m2ae_is_its_formula(wide):
    _, model, batch = tiny("point-m2ae")
    model = type(model)(model.config.with_(wide_head=wide)).eval()
    w, points = moved(model), batch["points"]
    x, centres = points, points
    for scale, (count, size, radius) in enumerate(((16, 8, 0.8), (12, 4, 1.6), (8, 4, 0.0))):
        before = centres
        centres, index = groups_of(before, count, size)
        inside = taken(x, index)
        if scale == 0:
            inside = inside - centres[:, :, None]
        tokens = point_net(inside, w, f"h_encoder.token_embed.{scale}")
        hidden = torch.cdist(centres, centres) >= radius if radius else None
        where = position(centres, w, f"h_encoder.encoder_pos_embeds.{scale}")
        x = block(tokens + where, w, f"h_encoder.encoder_blocks.{scale}.blocks.0", 4, hidden)
    x = normed(x, w, "norm")
    features = torch.cat([x.mean(1), x[:, 1:].amax(1)], 1) if wide else x.mean(1) + x.amax(1)
    torch.testing.assert_close(model(points), features, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_point_mae_reconstructs_as_in_its_formula():
    _, model, batch = tiny("point-transformer", "masked-reconstruction")
    w, points, hidden = moved(model), batch["points"], batch["hidden"]
    centres, index = groups_of(points, 8, 4)
    near = taken(points, index) - centres[:, :, None]
    tokens = point_net(near, w, "MAE_encoder.encoder")
    for row in range(2):
        seen, gone = (~hidden[row]).nonzero()[:, 0], hidden[row].nonzero()[:, 0]
        x = tokens[row, seen]
        for i in range(2):
            where = position(centres[row, seen], w, "MAE_encoder.pos_embed")
            x = block(x + where, w, f"MAE_encoder.blocks.blocks.{i}", 4, None)
        x = torch.cat([normed(x, w, "MAE_encoder.norm"), w["mask_token"][0].expand(4, -1)])
        where = position(centres[row, torch.cat([seen, gone])], w, "decoder_pos_embed")
        x = normed(block(x + where, w, "MAE_decoder.blocks.0", 4, None)[-4:], w, "MAE_decoder.norm")
        made = layer(x, w, "increase_dim.0").view(4, 4, 3)
        found, given, rows = model(points, hidden)
        torch.testing.assert_close(found[rows == row], made, atol=1e-5, rtol=1e-5)
        assert torch.equal(given[rows == row], near[row, gone])
    apart = ((made[:, :, None] - near[row, gone][:, None]) ** 2).sum(-1)
    plain = apart.amin(1).mean(-1) + apart.amin(2).mean(-1)
    torch.testing.assert_close(chamfer(made, near[row, gone]), plain)


def propagated(x: Tensor, coarse: Tensor, fine: Tensor, own: Tensor, w, name: str) -> Tensor:
    """Interpolate the tokens of a scale at the three nearest centres, and fuse them."""
    given = torch.zeros(len(fine), x.shape[1])
    for i, centre in enumerate(fine):
        apart = ((coarse - centre) ** 2).sum(1)
        near = apart.sort().indices[:3]
        share = 1 / (apart[near] + 1e-8)
        given[i] = (share / share.sum()) @ x[near]
    x = layer(torch.cat([own, given], 1), w, f"{name}.fuse.net.0")
    x = gelu(scaled(x, w, f"{name}.fuse.net.1"))
    inside = f"{name}.extraction.operation.0"
    y = gelu(scaled(layer(x, w, f"{inside}.net1.0"), w, f"{inside}.net1.1"))
    return gelu(scaled(layer(y, w, f"{inside}.net2.0"), w, f"{inside}.net2.1") + x)


@torch.no_grad()
def test_point_m2ae_reconstructs_as_in_its_formula():
    _, model, batch = tiny("point-m2ae", "masked-reconstruction")
    w, points = moved(model), batch["points"]
    hidden = torch.zeros(2, 8, dtype=torch.bool)
    hidden[0, [0, 1, 2, 3, 5, 6]] = hidden[1, [0, 1, 2, 3, 4, 6]] = True
    found = model(points, hidden)
    for row in range(2):
        before, centres, indices, near = points[row : row + 1], [], [], []
        for count, size in ((16, 8), (12, 4), (8, 4)):
            after, index = groups_of(before, count, size)
            near.append((taken(before, index) - after[:, :, None])[0])
            centres.append(after[0])
            indices.append(index[0])
            before = after
        seen = [[], [], (~hidden[row]).nonzero()[:, 0].tolist()]
        for scale in (1, 0):
            held = {i for group in seen[scale + 1] for i in indices[scale + 1][group]}
            seen[scale] = sorted(held)
        normed_ = []
        tokens = near[0]
        for scale in range(3):
            inside = near[0] if scale == 0 else tokens[torch.tensor(indices[scale])]
            tokens = point_net(inside, w, f"h_encoder.token_embed.{scale}")
            where = position(
                centres[scale][seen[scale]], w, f"h_encoder.encoder_pos_embeds.{scale}"
            )
            name = f"h_encoder.encoder_blocks.{scale}.blocks.0"
            tokens[seen[scale]] = block(tokens[seen[scale]] + where, w, name, 4, None)
            normed_.append(torch.zeros_like(tokens))
            if scale:
                name = f"h_encoder.encoder_norms.{scale}"
                normed_[scale][seen[scale]] = normed(tokens[seen[scale]], w, name)
        x = normed_[2]
        x[hidden[row]] = w["mask_token"]
        x = block(
            x + position(centres[2], w, "decoder_pos_embeds.0"), w, "h_decoder.0.blocks.0", 4, None
        )
        x = propagated(x, centres[2], centres[1], normed_[1], w, "token_prop.0")
        x = block(
            x + position(centres[1], w, "decoder_pos_embeds.1"), w, "h_decoder.1.blocks.0", 4, None
        )
        gone = [i for i in range(12) if i not in seen[1]]
        made = layer(normed(x, w, "decoder_norm")[gone], w, "rec_head").view(len(gone), 8, 3)
        here = found.rows == row
        torch.testing.assert_close(found.made[here], made, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.given[here], near[1][gone])
    # rows differ in how many groups are hidden, so that one of them was padded
    assert found.rows.bincount().unique().numel() == 2
