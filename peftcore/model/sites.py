"""Sites: the concrete places of one model, and its parameters."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from peftcore.model.layers import LayerInfo, layer_at
from peftcore.model.offloading import Keeper
from peftcore.model.targets import Targets, setting_for

#: Roles of what computes of another stack's tokens than those of the stack that it is in.
_OF_MEMORY = ("cross_attention.key", "cross_attention.value")


@dataclass(eq=False, slots=True)
class Site:
    """One concrete place in one model.

    Attributes:
        path: dotted path of the module; empty for the model itself.
        role: role of the place.
        module: the module itself. A method must not change it.
        layer: sizes and dtype; of the slice, where the site is one.
        block: index of the block that holds it, or None.
        blocks: number of blocks of the model.
        features: (start, stop) of the output features, where the role is a slice of a fused layer.
        direct: the model reads the weight and never calls the module.
        weight_name: name of the parameter that holds the weight.
        part: the weight is one of several that its module holds itself, as experts are.
        stack: name of the stack that holds it, in a model of several (``encoder``, ``decoder``).
        stack_blocks: (first, stop) of the blocks of that stack; of all where there is one.
        keeper: what keeps the weights between calls, where the model is offloaded.
    """

    path: str
    role: str
    module: nn.Module
    layer: LayerInfo
    block: int | None = None
    blocks: int = 0
    features: tuple[int, int] | None = None
    direct: bool = False
    weight_name: str = "weight"
    stack: str = ""
    stack_blocks: tuple[int, int] = (0, 0)
    part: bool = False
    keeper: Keeper | None = None

    @property
    def kind(self) -> str:
        """Kind of the layer: ``linear``, ``norm``, ``module``, ..."""
        return self.layer.kind

    @property
    def bias_name(self) -> str:
        """Name of the parameter that holds the bias, where there is one."""
        if self.weight_name.endswith("weight"):
            return self.weight_name.removesuffix("weight") + "bias"
        return f"{self.weight_name}_bias"

    @property
    def crosses(self) -> bool:
        """Whether it computes of the tokens of the stack that cross-attention reads."""
        return self.role in _OF_MEMORY

    @property
    def own_path(self) -> str:
        """The path; of a weight that is one of several of its module, with the weight's name."""
        return f"{self.path}.{self.weight_name}".removeprefix(".") if self.part else self.path

    @property
    def name(self) -> str:
        """The path, with the role where several sites share one module."""
        return f"{self.path}[{self.role}]" if self.features or self.part else self.path

    @property
    def here(self) -> str:
        """The place as sentences name it: path and role."""
        return f"{self.name or 'the model'} ({self.role})"

    def weight(self) -> torch.Tensor:
        """Return the weight here, [out, in, ...], without gradient; dequantised, of the slice."""
        layer = layer_at(self.module, self.weight_name)
        assert layer is not None
        with self.keeper.loaded(self.module) if self.keeper else nullcontext():
            weight = layer.weight(self.module).detach()
        return weight[slice(*self.features)] if self.features else weight

    def inside(self, other: Site) -> bool:
        """Tell whether this is a slice of what another site is."""
        if self.features is None or self.module is not other.module:
            return False
        (start, stop), around = self.features, other.features
        within = around is None or (around[0] <= start and stop <= around[1])
        return within and self.weight_name == other.weight_name

    def matches(self, targets: Targets) -> bool:
        """Tell whether targets choose this site."""
        return targets.match(self)

    def setting(self, value: Any) -> Any:
        """Return what a :data:`peftcore.PerRole` value says for this site."""
        return setting_for(value, self.role, self.path)


@dataclass(eq=False, slots=True)
class ParameterInfo:
    """One parameter of the base model, as methods that select parameters see it.

    Attributes:
        name: dotted name in the model.
        path: path of its module.
        leaf: its name in the module: ``weight``, ``bias``.
        role: role of its module, or an empty string.
        kind: kind of its module: ``linear``, ``norm``, ...
        block: index of the block that holds it, or None.
        blocks: number of blocks of the model.
        parameter: the parameter itself. A method must not change it.
        stack: name of the stack that holds it, in a model of several.
        stack_blocks: (first, stop) of the blocks of that stack.
    """

    name: str
    path: str
    leaf: str
    role: str
    kind: str
    block: int | None
    blocks: int
    parameter: nn.Parameter
    stack: str = ""
    stack_blocks: tuple[int, int] = (0, 0)

    @property
    def own_path(self) -> str:
        """The path of its module."""
        return self.path

    def matches(self, targets: Targets) -> bool:
        """Tell whether targets choose the module of this parameter."""
        return targets.match(self)
