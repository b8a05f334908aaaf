"""What the kit itself registers in the process that uses it: its toys, its layer, its probe."""

from peftcore.errors import PluginError
from peftcore.registry.hookspecs import hookimpl
from peftcore.registry.installed import installed
from peftcore.registry.records import PluginRecord
from peftcore.registry.specs import BackboneSpec, LayerSpec, MethodSpec
from peftcore.version import __version__

#: The backbones of the kit by name: summary, module and model; the first one is the plain toy.
TOYS = {
    "toy": ("Toy text classifier of the contract kit.", "toy", "Toy"),
    "toy-decoder": ("Toy language model of the contract kit.", "toy_decoder", "ToyDecoder"),
    "toy-cnn": ("Toy image classifier of the contract kit.", "toy_cnn", "ToyCnn"),
}


class _Kit:
    @hookimpl
    def peftcore_register_backbones(self) -> list[BackboneSpec]:
        return [
            BackboneSpec(
                name=name,
                summary=summary,
                backbone=f"peftcore.testing.{module}:{model}Backbone",
                matches=(f"peftcore.testing.{module}:{model}",),
            )
            for name, (summary, module, model) in TOYS.items()
        ]

    @hookimpl
    def peftcore_register_layers(self) -> LayerSpec:
        return LayerSpec(
            type="peftcore.testing.toy:FakeQuantLinear", layer="peftcore.testing.toy:FakeQuant"
        )

    @hookimpl
    def peftcore_register_methods(self) -> MethodSpec:
        return MethodSpec(
            name="probe",
            summary="Change of whole weights; for tests.",
            config="peftcore.testing.probe:ProbeConfig",
            method="peftcore.testing.probe:Probe",
        )


def register_kit() -> None:
    """Add the kit's toys, layer and probe to the registry of this process, once."""
    if "toy" not in installed().backbones:
        record = PluginRecord("testing", "peftcore", __version__)
        installed().add(record, _Kit())
        if record.status != "ok":
            raise PluginError(f"the contract kit cannot be used: {record.problem}.")
