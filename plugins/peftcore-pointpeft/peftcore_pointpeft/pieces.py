"""The pieces of Point-PEFT: at the grouping and embedding of points, and in each block."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Around, Context, Transform, bare_class
from peftcore_pointpeft.bank import Memory
from peftcore_pointpeft.config import PointPeftConfig

#: Slope of the logistic approximation of GELU.
_QUICK = 1.702
#: Added to squared distances, so that a token at a centre has a finite weight.
_TINY = 1e-8


class Neighbourhoods(NamedTuple):
    """Which tokens lie near which centres of the second grouping.

    Attributes:
        centres: [B, G, 3], of the tokens that are given back to.
        near: [B, S, 3], of the neighbourhoods.
        index: [B, S, K], of the tokens in each, counted over all rows.
        centre_index: [B, S], of the token in the middle of each, counted likewise.
    """

    centres: Tensor
    near: Tensor
    index: Tensor
    centre_index: Tensor


class Regrouped(NamedTuple):
    """What blocks need to know of a call.

    Attributes:
        plain: neighbourhoods of tokens.
        prompted: neighbourhoods of prompts and tokens.
        remembered: [B, T, d] what the memory bank knows of each cloud, or None.
    """

    plain: Neighbourhoods
    prompted: Neighbourhoods
    remembered: Tensor | None


class Bottleneck(nn.Module):
    """W₂ drop(σ(W₁ x + b₁)) + b₂ with σ(x) = x / (1 + e^(-1.702 x)); no residual."""

    def __init__(self, width: int, inner: int, dropout: float):
        super().__init__()
        self.down = nn.Linear(width, inner)
        self.up = nn.Linear(inner, width)
        self.dropout = dropout

    def draw(self) -> None:
        """Start as the release does."""
        for layer in (self.down, self.up):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.normal_(layer.bias, std=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, shaped as x."""
        inner = self.down(x)
        inner = F.dropout(inner * torch.sigmoid(_QUICK * inner), self.dropout, self.training)
        out: Tensor = self.up(inner)
        return out


class Nearby(nn.Module):
    """Attention over the tokens of a neighbourhood, after a norm; all blocks share it.

    As released the scores are divided by the root of the whole width, not of a head's.
    """

    def __init__(self, width: int, inner: int, heads: int):
        super().__init__()
        self.heads = heads
        self.scale = inner**-0.5
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * inner, bias=False)
        self.proj = nn.Linear(inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """Return the attended tokens of neighbourhoods, [B * S, K, d]."""
        rows, count, _ = x.shape
        parts = self.qkv(self.norm(x)).view(rows, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(*parts, scale=self.scale)
        out: Tensor = self.proj(seen.transpose(1, 2).reshape(rows, count, -1))
        return out


class Watching(Around):
    """Around the grouping of points: keeps what went in and came out, and changes nothing."""

    def forward(self, call: Callable[..., Any], points: Tensor, context: Context) -> Any:
        """Return the groups as they are."""
        groups = call(points)
        context.keep(self, (points, groups))
        return groups


class Regrouping(Transform):
    """Before groups are embedded: groups tokens and prompts a second time, for all blocks.

    Prompts have coordinates of their own, which are learned, and take part in neighbourhoods.

    Args:
        grouping: the module that groups points, with ``num_group`` and ``group_size``; its class
            makes further ones.
        config: of the method.
        watching: the piece that keeps points and groups of a call.
        memory: the memory bank, or None.
    """

    where = "input"

    def __init__(
        self, grouping: nn.Module, config: PointPeftConfig, watching: Watching,
        memory: Memory | None,
    ):  # fmt: skip
        super().__init__()
        kind: Any = bare_class(grouping)
        count, size = int(grouping.num_group), int(grouping.group_size)  # type: ignore[arg-type]
        self.released = config.released
        self.watching = (watching,)  # it is stored where it belongs
        self.again = kind(count, size)
        self.second = kind(max(count // 2, 1), max(size // 2, 1))
        self.coordinates = nn.Parameter(torch.zeros(config.num_virtual_tokens, 3))
        self.memory = memory

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the coordinates."""
        nn.init.trunc_normal_(self.coordinates, std=0.02)

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the groups as they are, and keep what blocks need."""
        points, groups = context.kept(self.watching[0])[-1]
        centres = groups.centres
        own = self.coordinates.to(points.dtype).expand(len(points), -1, -1)
        plain = _numbered(centres, self.second(centres), centres.shape[1])
        if self.released:
            # its numbers are those of the centres alone, though prompts stand before the tokens
            first = self.again(torch.cat([own, points], 1)).centres
            prompted = _numbered(first, self.second(first), centres.shape[1])
        else:
            together = torch.cat([own, centres], 1)
            prompted = _numbered(centres, self.second(together), together.shape[1])
        remembered = None if self.memory is None else self.memory(points)
        context.keep(self, Regrouped(plain, prompted, remembered))
        return hidden


def _numbered(centres: Tensor, groups: Any, stride: int) -> Neighbourhoods:
    first = torch.arange(len(centres), device=centres.device) * stride
    return Neighbourhoods(
        centres,
        groups.centres,
        groups.index + first[:, None, None],
        groups.centre_index + first[:, None],
    )


class Inner(Transform):
    """h + 0.7 A(h) on the feed-forward part of a block.

    The release drops the part before the adapter where it drops paths at random; here it is
    dropped with the adapter's update. In evaluation both are the same.
    """

    def __init__(self, width: int, config: PointPeftConfig):
        super().__init__()
        self.adapter = Bottleneck(width, config.bottleneck, config.dropout)
        self.scale = float(config.inner_scale)

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the adapter."""
        self.adapter.draw()

    def forward(self, hidden: Tensor, context: Context) -> Tensor:
        """Return the part with the adapter's update."""
        return hidden + self.scale * self.adapter(hidden)


class Prompted(nn.Module):
    """Prompts of one block, and the adapter of what the memory bank adds to them."""

    def __init__(self, width: int, config: PointPeftConfig, *, remembers: bool):
        super().__init__()
        self.embeddings = nn.Parameter(torch.zeros(config.num_virtual_tokens, width))
        self.bank = Bottleneck(width, config.bank_bottleneck, config.dropout) if remembers else None
        self.dropout = config.dropout

    def draw(self) -> None:
        """Start as the release does."""
        nn.init.trunc_normal_(self.embeddings, std=0.02)
        if self.bank is not None:
            self.bank.draw()

    def forward(self, rows: int, remembered: Tensor | None) -> Tensor:
        """Return the prompts of each row, [B, T, d]."""
        prompts = self.embeddings.expand(rows, -1, -1)
        prompts = F.dropout(prompts, self.dropout, self.training)
        if self.bank is None or remembered is None:
            return prompts
        remembered = remembered.to(prompts.dtype)
        return prompts + remembered + self.bank(remembered)


class Geometric(Around):
    """Around a block: prompts enter, neighbourhoods are attended to and given back, prompts leave.

    Args:
        block: the block; its ``drop_path``, where it has one, drops neighbourhoods in training.
        width: d.
        config: of the method.
        regrouping: the piece that keeps the neighbourhoods of a call.
        nearby: the attention that all blocks share.
        prompted: the prompts, where the block has some.
        takes: the prompts go in; the release holds further ones that never do.
    """

    def __init__(
        self, block: nn.Module, width: int, config: PointPeftConfig, regrouping: Regrouping,
        nearby: Nearby, prompted: Prompted | None, *, takes: bool,
    ):  # fmt: skip
        super().__init__()
        self.regrouping, self.block = (regrouping,), (block,)  # they are stored where they belong
        self.nearby = nearby
        self.prompted = prompted
        self.takes = takes
        self.norm = nn.BatchNorm1d(width)
        self.outer = Bottleneck(width, config.bottleneck, config.dropout)
        self.centre_scale = float(config.centre_scale)
        self.propagation_scale = float(config.propagation_scale)
        if config.released:
            self.gate = nn.Parameter(torch.zeros(1))  # which the release never reads

    def start(self, weight: Callable[[], Tensor]) -> None:
        """Draw the tensors, those that all blocks share as well."""
        self.outer.draw()
        if self.prompted is not None:
            self.prompted.draw()

    def forward(
        self, call: Callable[..., Tensor], x: Tensor, *args: Any, context: Context
    ) -> Tensor:
        """Return the stream after the block, [B, 1 + G, d]; the class token comes first."""
        known: Regrouped = context.kept(self.regrouping[0])[-1]
        count = 0
        if self.takes and self.prompted is not None:
            prompts = self.prompted(len(x), known.remembered).to(x.dtype)
            count = prompts.shape[1]
            x = torch.cat([x[:, :1], prompts, x[:, 1:]], 1)
        out = call(x, *args)
        near = known.prompted if count else known.plain
        tokens = out[:, 1 + count :] + self._given_back(out[:, 1:], near).to(out.dtype)
        out = torch.cat([out[:, : 1 + count], tokens], 1)
        out = out + self.outer(out)
        return torch.cat([out[:, :1], out[:, 1 + count :]], 1)

    def _given_back(self, rows: Tensor, near: Neighbourhoods) -> Tensor:
        """Return what neighbourhoods give to each token, [B, G, d].

        Args:
            rows: [B, T + G, d], prompts and tokens.
            near: the neighbourhoods.
        """
        width, flat = rows.shape[-1], rows.flatten(0, 1)
        inside = flat[near.index.flatten(0, 1)]  # [B * S, K, d]
        drop = getattr(self.block[0], "drop_path", nn.Identity())
        inside = inside + drop(self.nearby(inside))
        pooled = F.gelu(self.norm(inside.amax(1))).view(len(rows), -1, width)
        pooled = pooled + self.centre_scale * flat[near.centre_index]
        apart = (near.centres[:, :, None] - near.near[:, None]).square().sum(-1)
        weight = 1 / (apart + _TINY)
        weight = weight / weight.sum(-1, keepdim=True)  # [B, G, S]
        return self.propagation_scale * (weight.to(pooled.dtype) @ pooled)
