"""Point-M2AE's pre-training: groups are hidden at all scales and rebuilt from the others."""

import itertools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore_pointcloud.config import PointConfig
from peftcore_pointcloud.layers import (
    Block,
    Groups,
    draw,
    draw_decoder,
    position_network,
    rising,
)
from peftcore_pointcloud.masked import Rebuilt
from peftcore_pointcloud.neighbours import gathered, nearest
from peftcore_pointcloud.networks import HierarchicalEncoder, PointNetwork, dividers

#: Centres that a token is interpolated of, and what is added to squared distances to them.
_NEAR, _TINY = 3, 1e-8


class Normed(nn.Module):
    """A shared layer with a batch norm and GELU."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.net = nn.Sequential(nn.Conv1d(into, out, 1), nn.BatchNorm1d(out), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of tokens, [B, into, N] to [B, out, N]."""
        out: Tensor = self.net(x)
        return out


class Residual(nn.Module):
    """Two shared layers beside the stream, each with a batch norm; GELU behind each."""

    def __init__(self, width: int):
        super().__init__()
        self.net1 = nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width), nn.GELU())
        self.net2 = nn.Sequential(nn.Conv1d(width, width, 1), nn.BatchNorm1d(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of tokens, [B, d, N]."""
        return F.gelu(self.net2(self.net1(x)) + x)


class Extraction(nn.Module):
    """What stands behind the fusing of two scales."""

    def __init__(self, width: int):
        super().__init__()
        self.operation = nn.Sequential(Residual(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of tokens, [B, d, N]."""
        out: Tensor = self.operation(x)
        return out


class Propagation(nn.Module):
    """From the tokens of a coarse scale to those of a finer one, as in PointNet++."""

    def __init__(self, into: int, out: int):
        super().__init__()
        self.fuse = Normed(into, out)
        self.extraction = Extraction(out)

    def forward(self, centres: Tensor, own: Tensor, coarse: Tensor, tokens: Tensor) -> Tensor:
        """Return the tokens of the finer scale, [B, N, out].

        Args:
            centres: [B, N, 3], of the finer scale.
            own: [B, N, d], what its tokens hold; 0 where they are hidden.
            coarse: [B, S, 3], centres of the other one.
            tokens: [B, S, D], its tokens.
        """
        index = nearest(coarse, centres, min(_NEAR, coarse.shape[1]))  # [B, N, 3]
        apart = (centres[:, :, None] - gathered(coarse, index)).square().sum(-1)
        weight = 1 / (apart + _TINY)
        weight = (weight / weight.sum(-1, keepdim=True)).to(tokens.dtype)
        given = (gathered(tokens, index) * weight[..., None]).sum(2)
        x = torch.cat([own, given], -1).transpose(1, 2)
        return self.extraction(self.fuse(x)).transpose(1, 2)  # type: ignore[no-any-return]


class DecoderBlocks(nn.Module):
    """Blocks of the decoder at one scale."""

    def __init__(self, width: int, heads: int, drop_paths: list[float]):
        super().__init__()
        self.blocks = nn.ModuleList(Block(width, heads, rate) for rate in drop_paths)
        self.apply(draw_decoder)

    def forward(self, x: Tensor, position: Tensor) -> Tensor:
        """Return the stream after all blocks, [B, L, d]."""
        for block in self.blocks:
            x = block(x + position)
        return x


class MaskedScales(PointNetwork):
    """Point-M2AE as it is pre-trained, Zhang et al. 2022, section 3.

    What is hidden at the last scale is hidden at all: a token of a finer scale is seen if a group
    that is seen holds it. The encoder works on what is seen, without the radii of tuning; the
    decoder goes back to the second scale, whose hidden groups are rebuilt. Padding is seen by no
    token here; in the release a token that is near the origin sees it, and the first token of a
    batch is always seen.
    """

    def __init__(self, config: PointConfig):
        super().__init__(config)
        self.group_dividers = dividers(config)
        self.h_encoder = HierarchicalEncoder(config)
        # the release has one of the finest scale too, which its decoder does not read
        self.h_encoder.encoder_norms = nn.ModuleDict(
            {str(scale): nn.LayerNorm(w) for scale, w in enumerate(config.widths) if scale}
        )
        self.h_encoder.apply(draw)
        widths = config.widths[:0:-1]  # of all scales but the finest, the coarsest first
        self.mask_token = nn.Parameter(torch.zeros(1, widths[0]))
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        rates = rising(config.drop_path_rate, config.decoder_depth * len(widths))
        self.h_decoder = nn.ModuleList(
            DecoderBlocks(w, config.heads, [rates.pop(0) for _ in range(config.decoder_depth)])
            for w in widths
        )
        self.decoder_pos_embeds = nn.ModuleList(position_network(w, w) for w in widths)
        self.token_prop = nn.ModuleList(
            Propagation(before + width, width) for before, width in itertools.pairwise(widths)
        )
        self.decoder_norm = nn.LayerNorm(widths[-1])
        self.rec_head = nn.Conv1d(widths[-1], 3 * config.group_sizes[0], 1)

    def forward(self, points: Tensor, hidden: Tensor) -> Rebuilt:
        """Return the hidden groups of the second scale as they are rebuilt, and as they are.

        Args:
            points: [B, N, 3].
            hidden: [B, G] bool, of the last scale, the same number in each row.
        """
        groups, centres = [], points
        for divide in self.group_dividers:
            groups.append(divide(centres))
            centres = groups[-1].centres
        masks = hidden_at_all(groups, hidden)
        seen = self._encoded(groups, masks)
        tokens = self._decoded(groups, masks, seen)
        gone = masks[1]
        made = self.rec_head(tokens[gone][..., None])
        given = groups[1].neighbours[gone]
        return Rebuilt(made.view(len(given), -1, 3), given, gone.nonzero()[:, 0])

    def _encoded(self, groups: list[Groups], masks: list[Tensor]) -> list[Tensor]:
        """Return the normed tokens of all scales but the finest, [B, G, d]; 0 where hidden."""
        encoder, out = self.h_encoder, []
        tokens: Tensor = groups[0].neighbours
        for scale, (found, hidden) in enumerate(zip(groups, masks, strict=True)):
            inside = tokens if scale == 0 else gathered(tokens, found.index)
            tokens = encoder.token_embed[scale](inside)
            # those that are seen come first, then as many others as the fullest row needs
            order = hidden.to(torch.uint8).argsort(dim=1, stable=True)
            order = order[:, : int((~hidden).sum(1).max())]
            padding = gathered(hidden[..., None], order)[..., 0]
            position = encoder.encoder_pos_embeds[scale](gathered(found.centres, order))
            unseen = padding[:, None].expand(-1, order.shape[1], -1)
            x = encoder.encoder_blocks[scale](gathered(tokens, order), position, unseen)
            place = (torch.arange(len(x), device=x.device)[:, None].expand_as(order), order)
            kept = torch.where(padding[..., None], gathered(tokens, order), x)
            tokens = tokens.index_put(place, kept.to(tokens.dtype))
            if scale:
                norm = encoder.encoder_norms[str(scale)]  # type: ignore[index]
                normed = norm(x).masked_fill(padding[..., None], 0)
                out.append(torch.zeros_like(tokens).index_put(place, normed.to(tokens.dtype)))
        return out

    def _decoded(self, groups: list[Groups], masks: list[Tensor], seen: list[Tensor]) -> Tensor:
        """Return the tokens of the second scale, [B, G, d], normed."""
        x = torch.where(masks[-1][..., None], self.mask_token.to(seen[-1].dtype), seen[-1])
        x = self.h_decoder[0](x, self.decoder_pos_embeds[0](groups[-1].centres))
        coarse = groups[-1].centres
        steps = zip(self.token_prop, self.h_decoder[1:], self.decoder_pos_embeds[1:], strict=True)  # type: ignore[arg-type]
        for step, (propagate, blocks, positions) in enumerate(steps, 2):
            centres = groups[-step].centres
            x = propagate(centres, seen[-step], coarse, x)
            x = blocks(x, positions(centres))
            coarse = centres
        out: Tensor = self.decoder_norm(x)
        return out


def hidden_at_all(groups: list[Groups], hidden: Tensor) -> list[Tensor]:
    """Return what is hidden at each scale, [B, G], the finest first.

    Args:
        groups: of all scales.
        hidden: [B, G] bool, at the last one.
    """
    out = [hidden]
    for found, finer in zip(groups[:0:-1], groups[-2::-1], strict=True):
        rows, count = finer.centres.shape[:2]
        members = found.index.flatten(1)
        seen = (~out[-1])[..., None].expand_as(found.index).flatten(1)
        held = torch.zeros(rows, count, device=hidden.device, dtype=torch.int32)
        out.append(held.scatter_add(1, members, seen.to(held.dtype)) == 0)
    return out[::-1]
