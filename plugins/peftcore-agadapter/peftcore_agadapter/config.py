"""What a recipe can say about KaAdapter."""

from pydantic import Field

from peftcore import MethodConfig, Scale, Targets, Width


class KaAdapterConfig(MethodConfig):
    """Configuration of KaAdapter."""

    rank: Width = Field(64, description="r, the width in the middle.")
    scale: Scale = Field(1.0, description="s, the factor of what is added.")
    shared: bool = Field(
        True,
        description="Towers share the middle layers of blocks of the same relative depth; without"
        " it every block has one of its own, to compare with.",
    )
    targets: Targets = Field(
        Targets.model_validate(["mlp.up", "mlp.down"]),
        description="Of each block the two linear layers at which its MLP begins and ends.",
    )
