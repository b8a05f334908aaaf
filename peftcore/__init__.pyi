"""The public names of peftcore, and where they live. ``__init__.py`` imports them by this list.

The functions at its end are commands that plugins bring.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any

from peftcore.adapter.handle import (
    Adapter as Adapter,
    adapters as adapters,
    attach as attach,
    detach as detach,
    load as load,
    merge_and_unload as merge_and_unload,
)
from peftcore.adapter.merge import (
    merge as merge,
    unmerge as unmerge,
)
from peftcore.adapter.plan import Plan as Plan, plan as plan
from peftcore.adapter.route import route as route
from peftcore.adapter.saving import save as save
from peftcore.adapter.selecting import SAVED as SAVED
from peftcore.adapter.switch import activate as activate, disabled as disabled, prompt as prompt
from peftcore.cli.plan_ import print_plans as print_plans
from peftcore.errors import (
    AttachError as AttachError,
    CheckpointError as CheckpointError,
    ConfigError as ConfigError,
    DataError as DataError,
    DeadPieceError as DeadPieceError,
    MergeError as MergeError,
    PeftcoreError as PeftcoreError,
    PluginError as PluginError,
    TargetError as TargetError,
    UnknownName as UnknownName,
    nearest as nearest,
)
from peftcore.method.config import (
    AtMost as AtMost,
    Divides as Divides,
    Dropout as Dropout,
    LinearTargets as LinearTargets,
    LowRankConfig as LowRankConfig,
    Mark as Mark,
    MethodConfig as MethodConfig,
    NeedsCall as NeedsCall,
    OneRank as OneRank,
    Rank as Rank,
    Scale as Scale,
    Width as Width,
    WithinPositions as WithinPositions,
    both_sides as both_sides,
    smaller_side as smaller_side,
)
from peftcore.method.examples import Examples as Examples
from peftcore.method.low_rank import LowRankDelta as LowRankDelta
from peftcore.method.method import Method as Method
from peftcore.method.pieces import (
    Around as Around,
    Delta as Delta,
    Piece as Piece,
    Reparam as Reparam,
    Transform as Transform,
    trainable_dtype as trainable_dtype,
)
from peftcore.method.placed import Placed as Placed
from peftcore.method.targeted import Targeted as Targeted
from peftcore.model.backbones import (
    Backbone as Backbone,
    Structural as Structural,
    backbone_for_plan as backbone_for_plan,
    backbone_for_source as backbone_for_source,
    backbone_named as backbone_named,
    backbone_of as backbone_of,
    build_on_meta as build_on_meta,
    query_key_value as query_key_value,
)
from peftcore.model.calls import padding_id as padding_id, read_call as read_call
from peftcore.model.context import Context as Context
from peftcore.model.globs import path_matches as path_matches
from peftcore.model.layers import (
    InProjection as InProjection,
    Layer as Layer,
    LayerInfo as LayerInfo,
    Weights as Weights,
    info_of as info_of,
    layer_at as layer_at,
    layer_of as layer_of,
)
from peftcore.model.loaded import (
    Loaded as Loaded,
    check_options as check_options,
    unknown_size as unknown_size,
)
from peftcore.model.offloading import device_of as device_of
from peftcore.model.sites import ParameterInfo as ParameterInfo, Site as Site
from peftcore.model.survey import Survey as Survey, survey as survey
from peftcore.model.targets import (
    PerRole as PerRole,
    Targets as Targets,
    with_role as with_role,
)
from peftcore.model.walk import (
    argument_names as argument_names,
    bare_class as bare_class,
    base_modules as base_modules,
)
from peftcore.registry.hookspecs import hookimpl as hookimpl
from peftcore.registry.installed import (
    installed as installed,
    register as register,
)
from peftcore.registry.references import resolve as resolve
from peftcore.registry.sources import resolve_source as resolve_source
from peftcore.registry.specs import (
    BackboneSpec as BackboneSpec,
    CommandSpec as CommandSpec,
    ExecutorSpec as ExecutorSpec,
    FeatureSpec as FeatureSpec,
    FormatSpec as FormatSpec,
    LayerSpec as LayerSpec,
    MethodSpec as MethodSpec,
    SourceSpec as SourceSpec,
    TaskSpec as TaskSpec,
)
from peftcore.schema import Strict as Strict, problems as problems, validated as validated
from peftcore.store.checkpoint import inspect as inspect, read as read
from peftcore.version import __version__ as __version__

def train(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def compare(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    output: str | None = None,
    jobs: int = 1,
    executor: str = "processes",
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def report(
    directory: str | PathLike[str],
    /,
    *,
    output: str | PathLike[str] | None = None,
    write: bool = True,
) -> Any: ...
def tune(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    trials: int | None = None,
    minutes: float | None = None,
    parameters: Mapping[str, str] | None = None,
    output: str | None = None,
    storage: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def fairtune(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    trials: int | None = None,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def active(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def curriculum(
    recipe: str | PathLike[str] | Mapping[str, Any],
    /,
    *,
    output: str | None = None,
    quiet: bool = False,
    **sections: Any,
) -> Any: ...
def interpret(
    run: str | PathLike[str],
    /,
    *,
    rows: str | PathLike[str] | None = None,
    what: Sequence[str] = (),
    output: str | PathLike[str] | None = None,
    quiet: bool = False,
    **options: Any,
) -> Any: ...
