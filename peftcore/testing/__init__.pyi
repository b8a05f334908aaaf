"""The public names of the kit, and where they live."""

from peftcore.testing.against_peft import (
    EqualToPeft as EqualToPeft,
    InPeft as InPeft,
    Pair as Pair,
    Twins as Twins,
)
from peftcore.testing.backbone_contract import BackboneContract as BackboneContract
from peftcore.testing.command_contract import CommandContract as CommandContract
from peftcore.testing.fake_plugins import (
    make_plugin as make_plugin,
    run_cli as run_cli,
    run_in_process as run_in_process,
)
from peftcore.testing.kit import register_kit as register_kit
from peftcore.testing.layer_contract import LayerContract as LayerContract
from peftcore.testing.matrix import (
    attached as attached,
    check_pair as check_pair,
    loss_of as loss_of,
    pairs as pairs,
    perturb as perturb,
    reason_against as reason_against,
    refusal as refusal,
    run as run,
    same as same,
    tensors_of as tensors_of,
    tiny as tiny,
)
from peftcore.testing.method_contract import MethodContract as MethodContract
from peftcore.testing.plugin_contract import PluginContract as PluginContract
from peftcore.testing.refusals import Snapshot as Snapshot, refused as refused
from peftcore.testing.source_contract import SourceContract as SourceContract
from peftcore.testing.toy import (
    HEADS as HEADS,
    Attention as Attention,
    FakeQuantLinear as FakeQuantLinear,
    Output as Output,
    Toy as Toy,
)
from peftcore.testing.weights_contract import WeightsContract as WeightsContract
