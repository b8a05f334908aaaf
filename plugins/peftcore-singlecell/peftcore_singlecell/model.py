"""scBERT, Yang et al. 2022, https://doi.org/10.1038/s42256-022-00534-z.

The names of modules and parameters are those of the released checkpoints. In shapes B counts cells,
N genes (and a last place that holds a 0), d is the width.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from peftcore_singlecell.attention import FastAttention, feature_count

CONFIG, WEIGHTS = "config.json", "model.safetensors"


@dataclass
class ScBertConfig:
    """The sizes of an scBERT; the defaults are those of the paper.

    Attributes:
        genes: how many genes it knows.
        dim, depth, heads, head_width, mlp_width: sizes of its blocks.
        bins: expression from here on is one token; with 0 and the mask there are bins + 2.
        features: random features of a head.
        redraw_interval: calls in training after which the features are drawn anew; 0 is never.
        head_hidden: inner widths of the classifier.
        labels: names of the types that the classifier tells apart, where they are known.
    """

    genes: int = 16_906
    dim: int = 200
    depth: int = 6
    heads: int = 10
    head_width: int = 64
    mlp_width: int = 800
    bins: int = 5
    features: int = feature_count(64)
    redraw_interval: int = 1000
    head_hidden: tuple[int, int] = (512, 128)
    labels: tuple[str, ...] = ()

    @property
    def tokens(self) -> int:
        """The size of the vocabulary; its last token is the mask."""
        return self.bins + 2

    @property
    def positions(self) -> int:
        """Places of a sequence: the genes, and one that holds a 0."""
        return self.genes + 1

    def update(self, values: Mapping[str, Any]) -> None:
        """Take the names of labels over from ``id2label``, as merged models describe themselves."""
        if "id2label" in values:
            self.labels = tuple(values["id2label"].values())

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> "ScBertConfig":
        """Return what a config.json says; keys that are none of ours are left out."""
        known = {field.name for field in fields(cls)}
        found = {name: value for name, value in values.items() if name in known}
        for name in ("head_hidden", "labels"):
            if name in found:
                found[name] = tuple(found[name])
        return cls(**found)


class SelfAttention(nn.Module):
    """Projections of all heads around the attention; queries, keys and values have no bias."""

    def __init__(self, config: ScBertConfig, *, released: bool):
        super().__init__()
        self.num_heads = config.heads
        inner = config.heads * config.head_width
        self.fast_attention = FastAttention(config.head_width, config.features, released=released)
        self.to_q = nn.Linear(config.dim, inner, bias=False)
        self.to_k = nn.Linear(config.dim, inner, bias=False)
        self.to_v = nn.Linear(config.dim, inner, bias=False)
        self.to_out = nn.Linear(inner, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Let every gene see every other one; [B, N, d]."""
        query, key, value = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.to_q, self.to_k, self.to_v)
        )
        seen: Tensor = self.fast_attention(query, key, value)
        out: Tensor = self.to_out(seen.transpose(1, 2).flatten(2))
        return out


class FeedForward(nn.Module):
    """Two linears with GELU between them."""

    def __init__(self, config: ScBertConfig):
        super().__init__()
        self.w1 = nn.Linear(config.dim, config.mlp_width)
        self.act = nn.GELU()
        self.w2 = nn.Linear(config.mlp_width, config.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Return as many features as came, [B, N, d]."""
        out: Tensor = self.w2(self.act(self.w1(x)))
        return out


class Held(nn.Module):
    """A module under the name ``fn``, which the released checkpoints have."""

    def __init__(self, fn: nn.Module):
        super().__init__()
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        """Call it."""
        out: Tensor = self.fn(x)
        return out


class PreNorm(Held):
    """A norm before a module."""

    def __init__(self, dim: int, fn: nn.Module):
        super().__init__(fn)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and call, [B, N, d]."""
        return super().forward(self.norm(x))


class Block(nn.Module):
    """Attention and feed-forward part, each added to the residual stream."""

    def __init__(self, config: ScBertConfig, *, released: bool):
        super().__init__()
        attention = SelfAttention(config, released=released)
        self.add_module("0", PreNorm(config.dim, attention))
        self.add_module("1", PreNorm(config.dim, Held(FeedForward(config))))

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual stream, [B, N, d]."""
        x = x + self.get_submodule("0")(x)
        out: Tensor = x + self.get_submodule("1")(x)
        return out


class Performer(nn.Module):
    """The blocks; in training their projections are drawn anew now and then."""

    moved_in_training: ClassVar[tuple[str, ...]] = ("calls_since_last_redraw",)
    calls_since_last_redraw: Tensor

    def __init__(self, config: ScBertConfig, *, released: bool):
        super().__init__()
        blocks = nn.ModuleList(Block(config, released=released) for _ in range(config.depth))
        self.net = nn.ModuleDict({"layers": blocks})
        self.redraw_interval = config.redraw_interval
        self.recomputes = False
        self.register_buffer("calls_since_last_redraw", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        """Run all blocks, [B, N, d]."""
        self._redraw_when_due()
        blocks = self.net["layers"]
        assert isinstance(blocks, nn.ModuleList)
        for block in blocks:
            recomputes = self.recomputes and torch.is_grad_enabled()
            x = checkpoint(block, x, use_reentrant=False) if recomputes else block(x)
        return x

    @torch.no_grad()
    def _redraw_when_due(self) -> None:
        if not self.training or not self.redraw_interval:
            return
        if int(self.calls_since_last_redraw) < self.redraw_interval:
            self.calls_since_last_redraw += 1
            return
        for module in self.modules():
            if isinstance(module, FastAttention):
                module.redraw()
        self.calls_since_last_redraw.zero_()


class GenePositions(nn.Module):
    """A vector for each gene, gene2vec's in the released checkpoints, and zeros for the last place.

    The authors never train it.
    """

    def __init__(self, config: ScBertConfig):
        super().__init__()
        self.emb = nn.Embedding(config.positions, config.dim)
        self.emb.weight.requires_grad_(False)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the vectors of the places of a batch, [B, N, d]."""
        places = torch.arange(ids.shape[1], device=ids.device)
        found: Tensor = self.emb(places.expand(ids.shape))
        return found


class TypeHead(nn.Module):
    """One number of every gene's vector, and three linears on those of all genes."""

    def __init__(self, config: ScBertConfig, num_labels: int):
        super().__init__()
        first, second = config.head_hidden
        self.conv1 = nn.Conv2d(1, 1, (1, config.dim))
        self.fc1 = nn.Linear(config.positions, first)
        self.fc2 = nn.Linear(first, second)
        self.fc3 = nn.Linear(second, num_labels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits of the types, [B, C], of hidden vectors [B, N, d]."""
        x = self.conv1(x[:, None]).relu().flatten(1)
        out: Tensor = self.fc3(self.fc2(self.fc1(x).relu()).relu())
        return out


class ScBert(nn.Module):
    """scBERT with a head or none.

    Args:
        config: its sizes.
        head: ``none`` for hidden vectors, ``masked-lm`` for tokens of expression, ``cell-type``.
        num_labels: types of the head ``cell-type``.
        released: compute attention as the authors' code does, see :func:`favor`.
    """

    def __init__(
        self,
        config: ScBertConfig,
        head: str = "none",
        num_labels: int = 2,
        *,
        released: bool = False,
    ):
        super().__init__()
        self.config = config
        self.token_emb = nn.Embedding(config.tokens, config.dim)
        self.pos_emb = GenePositions(config)
        self.performer = Performer(config, released=released)
        self.norm = nn.LayerNorm(config.dim)
        self.to_out: nn.Module | None = None
        if head == "masked-lm":
            self.to_out = nn.Linear(config.dim, config.tokens)
        elif head == "cell-type":
            self.to_out = TypeHead(config, num_labels)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return hidden vectors or logits of cells, whose tokens are [B, N]."""
        x = self.token_emb(input_ids) + self.pos_emb(input_ids)
        hidden: Tensor = self.norm(self.performer(x))
        return hidden if self.to_out is None else self.to_out(hidden)

    def gradient_checkpointing_enable(self, **_: Any) -> None:
        """Recompute the blocks in the backward pass, so that their insides need not be kept."""
        self.performer.recomputes = True

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write weights and sizes into a folder, beside which its genes must be written."""
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        save_file(tensors, place / WEIGHTS, metadata={"format": "pt"})
        described = {"model_type": "scbert", **asdict(self.config)}
        (place / CONFIG).write_text(json.dumps(described, indent=2) + "\n", "utf-8")
