"""peftcore: parameter-efficient fine-tuning in which every method and backbone is a plugin.

Names that need torch are imported when they are first used, so that discovery stays light.
"""

from typing import TYPE_CHECKING, Any

from peftcore.errors import PeftcoreError
from peftcore.hookspecs import hookimpl
from peftcore.specs import (
    BackboneSpec,
    CommandSpec,
    LayerSpec,
    MethodSpec,
    SourceSpec,
    TaskSpec,
)

if TYPE_CHECKING:
    from peftcore.adapter import Adapter as Adapter, adapters as adapters
    from peftcore.attaching import attach as attach, detach as detach
    from peftcore.backbones import Backbone as Backbone, Loaded as Loaded
    from peftcore.checkpoint import inspect as inspect, load as load, save as save
    from peftcore.config import MethodConfig as MethodConfig, PerRole as PerRole, Targets as Targets
    from peftcore.context import Context as Context
    from peftcore.examples import Examples as Examples
    from peftcore.layers import Layer as Layer, LayerInfo as LayerInfo
    from peftcore.merging import (
        merge as merge,
        merge_and_unload as merge_and_unload,
        unmerge as unmerge,
    )
    from peftcore.methods import Method as Method
    from peftcore.pieces import (
        Around as Around,
        Delta as Delta,
        Piece as Piece,
        Reparam as Reparam,
        Transform as Transform,
    )
    from peftcore.planning import Plan as Plan, plan as plan
    from peftcore.routing import route as route
    from peftcore.sites import ParameterInfo as ParameterInfo, Site as Site
    from peftcore.switching import activate as activate, disabled as disabled, prompt as prompt

__version__ = "0.1.0"

_LAZY = {
    "Adapter": "adapter", "adapters": "adapter",
    "attach": "attaching", "detach": "attaching",
    "activate": "switching", "disabled": "switching", "prompt": "switching",
    "Backbone": "backbones", "Loaded": "backbones",
    "inspect": "checkpoint", "load": "checkpoint", "save": "checkpoint",
    "MethodConfig": "config", "PerRole": "config", "Targets": "config",
    "Context": "context", "Examples": "examples",
    "Layer": "layers", "LayerInfo": "layers",
    "merge": "merging", "merge_and_unload": "merging", "unmerge": "merging",
    "Method": "methods",
    "Around": "pieces", "Delta": "pieces", "Piece": "pieces", "Reparam": "pieces",
    "Transform": "pieces",
    "Plan": "planning", "plan": "planning",
    "route": "routing",
    "ParameterInfo": "sites", "Site": "sites",
}  # fmt: skip

__all__ = [
    "BackboneSpec",
    "CommandSpec",
    "LayerSpec",
    "MethodSpec",
    "PeftcoreError",
    "SourceSpec",
    "TaskSpec",
    "hookimpl",
    *sorted(_LAZY),
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'peftcore' has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"peftcore.{_LAZY[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
