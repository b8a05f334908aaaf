"""Adding adapters up: their tensors, or what LoRA's update of each weight is."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import peftcore
from peftcore import SAVED, Adapter, ConfigError

_DOWN, _UP = "lora_A", "lora_B"
_LORA = "lora"


class Composition:
    """Several adapters of one kind on one base, and the sum of them.

    Heads (``modules_to_save``) are averaged evenly, whatever the weights. Parameters of the base
    that methods train add up as theta0 + sum w (theta - theta0).

    Args:
        model: the model, which carries no adapter; it will carry the sum.
        places: the adapters by name.
        add: ``tensors`` or ``updates``.

    Attributes:
        adapter: the sum, with weights that :meth:`set` sets.

    Raises:
        PeftcoreError: an adapter does not fit the model, or is of another kind than the first.
    """

    def __init__(self, model: nn.Module, places: Mapping[str, Path], add: str):
        self.names, self.add = list(places), add
        self._parts: list[dict[str, Tensor]] = []
        self._scales: list[dict[str, float]] = []
        first = next(iter(places))
        described = peftcore.inspect(places[first])
        _check_alike(places, add)
        if add == "updates":
            _check_lora(places)
        for place in places.values():
            adapter = peftcore.load(model, place)
            self._parts.append(tensors_of(adapter))
            self._scales.append({i.name: getattr(i.piece, "scale", 1.0) for i in adapter.placed})
            adapter.detach()
        self.is_lora = [m["method"] for m in described["methods"]] == [_LORA]
        if add == "tensors":
            self.adapter: Adapter = peftcore.load(model, places[first])
        else:
            self.adapter = peftcore.attach(
                model,
                [{"method": _LORA, **self._wide(places)}],
                modules_to_save=described["modules_to_save"],
                save_frozen=described["save_frozen"],
            )

    def _wide(self, places: Mapping[str, Path]) -> dict[str, Any]:
        """Return the configuration of LoRA whose rank is the sum of all; its scale is 1."""
        configs = [peftcore.inspect(p)["methods"][0]["config"] for p in places.values()]
        rank = sum(config["rank"] for config in configs)
        plain = {"alpha": rank, "use_rslora": False, "init": "default", "dropout": 0.0}
        return {**configs[0], "rank": rank, **plain}

    @torch.no_grad()
    def set(self, weights: Sequence[float]) -> None:
        """Make the adapter the sum with these weights.

        Raises:
            ConfigError: tensors are added that are no sum from nothing, with weights that do not
                add up to 1.
        """
        if not self.is_lora and not math.isclose(sum(weights), 1, abs_tol=1e-6):
            raise ConfigError(
                f"compose.weights add up to {sum(weights):g}; only LoRA's tensors may have any"
                " weights, those of other methods must add up to 1."
            )
        for item in self.adapter.placed:
            for name, own in item.piece.named_parameters():
                parts = [part[f"{item.name}.{name}"] for part in self._parts]
                if self.add == "updates":
                    scales = [scale[item.name] for scale in self._scales]
                    own.copy_(_joined(name, parts, weights, scales))
                else:
                    own.copy_(_sum(weights, parts))
        for swap in self.adapter.swaps:
            parts = [part[swap.name] for part in self._parts]
            if swap.selected.label == SAVED:
                swap.own.copy_(torch.stack(parts).mean(0))
            else:
                base = swap.base.to(parts[0].dtype)
                swap.own.copy_(base + _sum(weights, [part - base for part in parts]))


def tensors_of(adapter: Adapter) -> dict[str, Tensor]:
    """Return copies of what an adapter holds, by name."""
    found = {
        f"{item.name}.{name}": p.detach().clone()
        for item in adapter.placed
        for name, p in item.piece.named_parameters()
    }
    return found | {swap.name: swap.own.detach().clone() for swap in adapter.swaps}


def _sum(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([w * part for w, part in zip(weights, parts, strict=True)]).sum(0)


def _joined(
    name: str, parts: Sequence[Tensor], weights: Sequence[float], scales: Sequence[float]
) -> Tensor:
    """Return factors side by side, whose product is the sum of the products."""
    if name == _DOWN:
        return torch.cat(list(parts), 0)
    factors = zip(weights, scales, parts, strict=True)
    return torch.cat([w * scale * part for w, scale, part in factors], 1)


def _check_alike(places: Mapping[str, Path], add: str) -> None:
    """Refuse adapters whose methods, targets or, where tensors are added, settings differ."""
    described = {name: peftcore.inspect(place)["methods"] for name, place in places.items()}
    first, *others = described
    for name in others:
        mine, theirs = ([m["method"] for m in described[n]] for n in (first, name))
        if mine != theirs:
            raise ConfigError(
                f"compose.adapters.{name} is of {', '.join(theirs) or 'no method'}, {first} of"
                f" {', '.join(mine) or 'no method'}; they cannot be added."
            )
        for one, other in zip(described[first], described[name], strict=True):
            fields = ["targets"] if add == "updates" else sorted(one["config"])
            for field in fields:
                values = [m["config"].get(field) for m in (one, other)]
                if "dropout" not in field and values[0] != values[1]:
                    hint = " Write compose.add: updates." if field in ("rank", "alpha") else ""
                    raise ConfigError(
                        f"compose.adapters.{name} has {one['method']}.{field} {values[1]!r},"
                        f" {first} {values[0]!r}; their tensors cannot be added.{hint}"
                    )


def _check_lora(places: Mapping[str, Path]) -> None:
    for name, place in places.items():
        methods = peftcore.inspect(place)["methods"]
        config = methods[0]["config"] if methods else {}
        plain = isinstance(config.get("rank"), int) and config.get("init") == "default"
        if [m["method"] for m in methods] != [_LORA] or not plain:
            raise ConfigError(
                f"compose.add: updates adds plain LoRA alone, of one rank for all layers, which"
                f" compose.adapters.{name} is not; write tensors."
            )
