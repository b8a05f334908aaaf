"""scBERT as a backbone: where its layers are, loading, and a small member."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftcore import (
    Backbone,
    ConfigError,
    Context,
    Loaded,
    base_modules,
    check_options,
    device_of,
    read_call,
    resolve_source,
)
from peftcore_singlecell.checkpoint import Checkpoint, is_scbert, read_checkpoint
from peftcore_singlecell.model import ScBert, ScBertConfig

_BLOCK = "**.performer.net.layers.*"
_OPTIONS = ("num_labels", "dtype", "genes", "redraw_interval", "released")
_HEAD = "to_out."


class ScBertBackbone(Backbone):
    """scBERT, Yang et al. 2022: six blocks of a Performer over 16,906 genes.

    A sequence has a place for each gene and one more; it is never padded. Most tokens are a 0,
    genes that are not expressed, which are as real as the others.
    """

    heads = ("masked-lm", "cell-type")
    generating = ()
    has = ("tokens", "bidirectional", "own-queries")
    # a token put before the others would give each gene the vector of another one
    lacks = {"one-pass": "each of its places is one gene, so that it has none for further tokens"}
    roles = {
        "embeddings": "**.token_emb",
        "embeddings.position": "**.pos_emb.emb",
        "block": _BLOCK,
        "attention": f"{_BLOCK}.0.fn",
        "attention.query": f"{_BLOCK}.0.fn.to_q",
        "attention.key": f"{_BLOCK}.0.fn.to_k",
        "attention.value": f"{_BLOCK}.0.fn.to_v",
        "attention.output": f"{_BLOCK}.0.fn.to_out",
        "mlp": f"{_BLOCK}.1.fn.fn",
        "mlp.up": f"{_BLOCK}.1.fn.fn.w1",
        "mlp.down": f"{_BLOCK}.1.fn.fn.w2",
    }
    configs = {"scbert": {}}

    # --- places ------------------------------------------------------------------------------

    def entry(self, model: nn.Module) -> str:
        """Return the path of the network."""
        return next((p for p, module, _ in base_modules(model) if isinstance(module, ScBert)), "")

    def role_globs(self, model: nn.Module) -> Mapping[str, Sequence[str]]:
        """Return role to globs; layers of the classifier, and of what is around, are heads."""
        network = self.entry(model)
        own = f"{network}.{_HEAD}" if network else _HEAD
        inside = f"{network}." if network else ""
        head = tuple(
            path
            for path, module, _ in base_modules(model)
            if module._parameters
            and (f"{path}.".startswith(own) or not f"{path}.".startswith(inside))
        )
        heads = {"head": head} if head else {}
        return {"model": (network,), **super().role_globs(model), **heads}

    def width(self, model: nn.Module, path: str, module: nn.Module) -> int | None:
        """Return the width of the residual stream."""
        network: Any = model.get_submodule(self.entry(model))
        return int(network.config.dim)

    def context(
        self, entry: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Context:
        """Say that all tokens of a call are real."""
        return read_call({**dict(zip(("input_ids",), args, strict=False)), **kwargs}, causal=False)

    # --- loading and building ----------------------------------------------------------------

    def recognises(self, source: str) -> bool:
        """Tell whether a folder or a released checkpoint holds an scBERT."""
        return is_scbert(source)

    def load(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Load a folder, or a checkpoint that the authors released (``.pth``).

        The tokenizer of what is returned is the list of genes, or None where none is known.

        Args:
            source: a folder with config.json, model.safetensors and genes.txt, or the checkpoint.
            head: ``none``, ``masked-lm`` or ``cell-type``.
            options: ``num_labels`` (of the checkpoint by default; another number starts a new
                head), ``dtype``, ``genes`` (file of the genes in order, for a checkpoint that has
                none), ``redraw_interval``, ``released`` (compute as the authors' code, see
                :func:`peftcore_singlecell.attention.favor`).

        Raises:
            ConfigError: the source does not exist, is damaged, or is no scBERT.
        """
        model, checkpoint = self._from(source, head, options, on_meta=False)
        fresh = _filled(model, checkpoint.tensors, source)
        return Loaded(_cast(model, options), checkpoint.genes, fresh, source)

    def load_on_meta(self, source: str, *, head: str = "none", **options: Any) -> Loaded:
        """Return what :meth:`load` would, on the meta device."""
        if self.is_size(source):
            return super().load_on_meta(source, head=head, **options)
        with torch.device("meta"):
            model, checkpoint = self._from(source, head, options, on_meta=True)
        fresh = _unheld(model, checkpoint.tensors, source)
        return Loaded(_cast(model, options), checkpoint.genes, fresh, source)

    def build(self, config: str, *, head: str = "none", **options: Any) -> nn.Module:
        """Build the named size, or what a source holds, with random weights.

        Args:
            config: ``scbert``, or a source as in :meth:`load`.
            head: as in :meth:`load`.
            options: as in :meth:`load`; ``num_labels`` of the named size is 2 by default.

        Raises:
            ConfigError: it is neither a size nor a source.
        """
        if not self.is_size(config):
            model, _ = self._from(config, head, options, on_meta=True)
            return _cast(model, options)
        self._check(head, options)
        return _cast(_made(ScBertConfig(), head, options.get("num_labels", 2), options), options)

    def tiny(self, *, head: str = "none") -> nn.Module:
        """Return a random small member of the family."""
        self._check(head, {})
        small = ScBertConfig(
            genes=11, dim=32, depth=2, heads=4, head_width=8, mlp_width=48, features=16,
            head_hidden=(16, 8),
        )  # fmt: skip
        return ScBert(small, head, 3)

    def batch(self, model: nn.Module, rows: int = 2) -> dict[str, Any]:
        """Return random tokens of cells, 0 at the last place."""
        network: Any = model.get_submodule(self.entry(model))
        ids = torch.randint(0, network.config.bins + 1, (rows, network.config.positions))
        ids[:, -1] = 0
        return {"input_ids": ids.to(device_of(model))}

    def _from(
        self, source: str, head: str, options: Mapping[str, Any], *, on_meta: bool
    ) -> tuple[ScBert, Checkpoint]:
        self._check(head, options)
        place = str(resolve_source(source, "model") or source)
        checkpoint = read_checkpoint(place, options.get("genes"), on_meta=on_meta)
        number = options.get("num_labels", checkpoint.types)
        if head == "cell-type" and not number:
            raise ConfigError(
                f"{source}: the checkpoint has no classifier. Give num_labels to start with a new"
                " one."
            )
        return _made(checkpoint.config, head, number, options), checkpoint

    def _check(self, head: str, options: Mapping[str, Any]) -> None:
        interval = options.get("redraw_interval", 0)
        more = []
        if isinstance(interval, bool) or not isinstance(interval, int) or interval < 0:
            more = [f"redraw_interval {interval!r} is no number of calls; 0 is never."]
        check_options(self.name, head, self.heads, options, _OPTIONS, more)


def _made(config: ScBertConfig, head: str, labels: int, options: Mapping[str, Any]) -> ScBert:
    model = ScBert(config, head, labels, released=bool(options.get("released", False)))
    if "redraw_interval" in options:
        model.performer.redraw_interval = options["redraw_interval"]
    return model.eval()


def _cast(model: nn.Module, options: Mapping[str, Any]) -> nn.Module:
    """Cast a model to the dtype that an option names, if it does."""
    named = options.get("dtype")
    if named is None:
        return model
    found = getattr(torch, named, None) if isinstance(named, str) else named
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype {named!r} is none of float32, bfloat16, float16.")
    return model.to(found)


def _unheld(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Return the parameters of a head that a checkpoint does not hold in these shapes.

    Raises:
        ConfigError: one that is no head's is missing, or has another shape.
    """
    state = model.state_dict()
    lacking = [n for n, t in state.items() if n not in tensors or tensors[n].shape != t.shape]
    wrong = [name for name in lacking if not name.startswith(_HEAD)]
    if wrong:
        found = tensors.get(wrong[0])
        what = "is missing" if found is None else f"has the shape {tuple(found.shape)}"
        raise ConfigError(f"{source}: {wrong[0]} {what}; it is no whole checkpoint of scBERT.")
    # a head is taken over whole or not at all
    return tuple(name for name in state if name.startswith(_HEAD)) if lacking else ()


def _filled(model: nn.Module, tensors: Mapping[str, Tensor], source: str) -> tuple[str, ...]:
    """Put the weights of a checkpoint into a model; return the names of those that stay random."""
    fresh = _unheld(model, tensors, source)
    own = model.state_dict()
    model.load_state_dict({n: tensors[n] for n in own if n not in fresh}, strict=False)
    return fresh
