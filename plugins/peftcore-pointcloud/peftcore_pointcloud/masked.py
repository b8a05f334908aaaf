"""Point-MAE's pre-training: groups that are hidden are reconstructed from those that are not."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from peftcore_pointcloud.config import PointConfig
from peftcore_pointcloud.layers import (
    Block,
    Blocks,
    Grouping,
    PointNet,
    draw,
    draw_decoder,
    position_network,
    rising,
)
from peftcore_pointcloud.networks import POINTNET, POSITION, PointNetwork


class Rebuilt(NamedTuple):
    """Hidden groups of a batch, one behind the other.

    Attributes:
        made: [H, M, 3], as they are reconstructed.
        given: [H, K, 3], as they are.
        rows: [H], the row that each is of.
    """

    made: Tensor
    given: Tensor
    rows: Tensor


class MaskedEncoder(nn.Module):
    """The encoder of masked reconstruction: it sees the groups that are not hidden."""

    def __init__(self, config: PointConfig):
        super().__init__()
        (width,), (depth,) = config.widths, config.depths
        self.encoder = PointNet(3, POINTNET, width)
        self.pos_embed = position_network(width, POSITION)
        self.blocks = Blocks(width, config.heads, rising(config.drop_path_rate, depth))
        self.norm = nn.LayerNorm(width)
        self.apply(draw)


class MaskedDecoder(nn.Module):
    """The decoder: blocks over seen and hidden tokens, of which the hidden ones are returned."""

    def __init__(self, width: int, heads: int, drop_paths: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_paths)
        self.norm = nn.LayerNorm(width)
        self.apply(draw_decoder)

    def forward(self, x: Tensor, position: Tensor, hidden: int) -> Tensor:
        """Return the last ``hidden`` tokens, [B, hidden, d]."""
        for block in self.blocks:
            x = block(x + position)
        return self.norm(x[:, -hidden:])  # type: ignore[no-any-return]


class MaskedAutoencoder(PointNetwork):
    """Point-MAE as it is pre-trained, Pang et al. 2022, section 3."""

    def __init__(self, config: PointConfig):
        super().__init__(config)
        (width,), (groups,), (size,) = config.widths, config.groups, config.group_sizes
        self.MAE_encoder = MaskedEncoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.decoder_pos_embed = position_network(width, POSITION)
        rates = rising(config.drop_path_rate, config.decoder_depth)
        self.MAE_decoder = MaskedDecoder(width, config.heads, rates)
        self.group_divider = Grouping(groups, size)
        self.increase_dim = nn.Sequential(nn.Conv1d(width, 3 * size, 1))
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(self, points: Tensor, hidden: Tensor) -> Rebuilt:
        """Return the hidden groups as they are reconstructed, and as they are.

        Args:
            points: [B, N, 3].
            hidden: [B, G] bool, the same number H of hidden groups in each row.
        """
        groups = self.group_divider(points)
        rows, encoder = len(points), self.MAE_encoder

        def parted(tokens: Tensor) -> tuple[Tensor, Tensor]:
            shape = (rows, -1, tokens.shape[-1])
            return tokens[~hidden].view(shape), tokens[hidden].view(shape)

        seen, _ = parted(encoder.encoder(groups.neighbours))
        seen_centres, hidden_centres = parted(groups.centres)
        seen = encoder.norm(encoder.blocks(seen, encoder.pos_embed(seen_centres)))
        count = hidden_centres.shape[1]
        x = torch.cat([seen, self.mask_token.expand(rows, count, -1)], 1)
        position = self.decoder_pos_embed(torch.cat([seen_centres, hidden_centres], 1))
        made = self.increase_dim(self.MAE_decoder(x, position, count).transpose(1, 2))
        made = made.transpose(1, 2).reshape(rows * count, -1, 3)
        return Rebuilt(made, groups.neighbours[hidden], hidden.nonzero()[:, 0])


def chamfer(made: Tensor, given: Tensor) -> Tensor:
    """Return the squared Chamfer distance of each pair of sets, [...], of [..., M, 3].

    The mean over each set of the squared distance to the nearest point of the other one, summed.
    """
    apart = (made[..., :, None, :] - given[..., None, :, :]).square().sum(-1)
    return apart.min(-1).values.mean(-1) + apart.min(-2).values.mean(-1)
