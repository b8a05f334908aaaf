"""Point-BERT, Point-MAE and Point-M2AE; names of tensors are those of their releases."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from peftcore_pointcloud.config import PointConfig
from peftcore_pointcloud.layers import (
    Blocks,
    Grouping,
    PointNet,
    classifier,
    draw,
    position_network,
    rising,
)
from peftcore_pointcloud.neighbours import gathered

#: Inner widths of the PointNet of coordinates, and of the network of positions.
POINTNET, POSITION = (128, 256, 512), 128


class PointNetwork(nn.Module):
    """What all networks here share: their configuration, and how they are written.

    Attributes:
        config: the sizes.
    """

    def __init__(self, config: PointConfig):
        super().__init__()
        self.config = config

    def save_pretrained(self, folder: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors``, which the backbone loads."""
        from safetensors.torch import save_file

        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        self.config.save(place)
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, place / "model.safetensors")


class PointTransformer(PointNetwork):
    """The encoder of Point-BERT (Yu et al. 2022) and Point-MAE (Pang et al. 2022), and its head.

    Without a head it returns the class token beside the maximum over the others, [B, 2 d].
    """

    def __init__(self, config: PointConfig):
        super().__init__(config)
        (width,), (depth,), (groups,) = config.widths, config.depths, config.groups
        self.group_divider = Grouping(groups, *config.group_sizes)
        bert = config.model_type == "point-bert"
        self.encoder = PointNet(3, POINTNET, config.encoder_dims if bert else width)
        if bert:
            self.reduce_dim = nn.Linear(config.encoder_dims, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.cls_pos = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = position_network(width, POSITION)
        self.blocks = Blocks(width, config.heads, rising(config.drop_path_rate, depth))
        self.norm = nn.LayerNorm(width)
        if config.num_labels:
            self.cls_head_finetune = classifier(2 * width, config.num_labels, deep=not bert)
        self.apply(draw)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        nn.init.trunc_normal_(self.cls_pos, std=0.02)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits, [B, classes], or features, [B, 2 d], of clouds, [B, N, 3]."""
        tokens, centres = self.tokens(points)
        rows = len(tokens)
        x = torch.cat([self.cls_token.expand(rows, -1, -1), tokens], 1)
        position = torch.cat([self.cls_pos.expand(rows, -1, -1), self.pos_embed(centres)], 1)
        x = self.norm(self.blocks(x, position))
        features = torch.cat([x[:, 0], x[:, 1:].max(1).values], -1)
        return self.cls_head_finetune(features) if self.config.num_labels else features

    def tokens(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embedded groups, [B, G, d], and their centres, [B, G, 3]."""
        groups = self.group_divider(points)
        tokens: Tensor = self.encoder(groups.neighbours)
        if self.config.model_type == "point-bert":
            tokens = self.reduce_dim(tokens)
        return tokens, groups.centres

    def pooled_tokens(self, points: Tensor) -> Tensor:
        """Return the maximum over the tokens as in pre-training, without class token, [B, d]."""
        tokens, centres = self.tokens(points)
        pooled: Tensor = self.norm(self.blocks(tokens, self.pos_embed(centres))).max(1).values
        return pooled


class HierarchicalEncoder(nn.Module):
    """The scales of Point-M2AE: tokens of the nearest centres are merged from scale to scale."""

    def __init__(self, config: PointConfig):
        super().__init__()
        self.radii = config.radii
        self.token_embed = nn.ModuleList([PointNet(3, POINTNET, config.widths[0])])
        for before, width in zip(config.widths, config.widths[1:], strict=False):
            self.token_embed.append(PointNet(before, (before, before, width), width))
        self.encoder_pos_embeds = nn.ModuleList(position_network(w, w) for w in config.widths)
        rates = rising(config.drop_path_rate, sum(config.depths))
        self.encoder_blocks = nn.ModuleList(
            Blocks(width, config.heads, [rates.pop(0) for _ in range(depth)])
            for width, depth in zip(config.widths, config.depths, strict=True)
        )


def dividers(config: PointConfig) -> nn.ModuleList:
    """Return what divides a cloud into groups, one for each scale."""
    scales = zip(config.groups, config.group_sizes, strict=True)
    return nn.ModuleList(Grouping(count, size) for count, size in scales)


class PointM2AE(PointNetwork):
    """Point-M2AE (Zhang et al. 2022): three scales, each token seeing those near it, and its head.

    Without a head it returns the mean and the maximum over the tokens, added or side by side.
    """

    def __init__(self, config: PointConfig):
        super().__init__(config)
        self.group_dividers = dividers(config)
        self.h_encoder = HierarchicalEncoder(config)
        width = config.widths[-1]
        self.norm = nn.LayerNorm(width)
        if config.num_labels:
            into = 2 * width if config.wide_head else width
            self.cls_head_finetune = classifier(into, config.num_labels, deep=True)
        self.apply(draw)

    def forward(self, points: Tensor) -> Tensor:
        """Return logits, [B, classes], or features, of clouds, [B, N, 3]."""
        encoder, centres = self.h_encoder, points
        x, apart = points, None
        for scale, divide in enumerate(self.group_dividers):
            groups = divide(centres)
            inside = groups.neighbours if scale == 0 else gathered(x, groups.index)
            tokens = encoder.token_embed[scale](inside)
            centres, mask = groups.centres, None
            if encoder.radii[scale] > 0:
                if apart is None or apart.shape[1] != centres.shape[1]:
                    apart = torch.cdist(centres, centres)
                mask = apart >= encoder.radii[scale]
            x = encoder.encoder_blocks[scale](
                tokens, encoder.encoder_pos_embeds[scale](centres), mask
            )
        x = self.norm(x)
        if self.config.wide_head:
            # the release leaves the first token out of the maximum here
            features = torch.cat([x.mean(1), x[:, 1:].max(1).values], 1)
        else:
            features = x.mean(1) + x.max(1).values
        return self.cls_head_finetune(features) if self.config.num_labels else features
