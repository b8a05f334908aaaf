"""What a recipe can say about DoRA."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field

from peftcore import Dropout, LowRankConfig, Targets

if TYPE_CHECKING:
    from peftcore import Site


class DoraConfig(LowRankConfig):
    """Configuration of DoRA; `rank`, `alpha` and `dropout` may be given per role."""

    dropout: Dropout = Field(
        0.0, description="Dropout on the input of what is added to the base's output, in training."
    )
    targets: Targets = Field(
        Targets.model_validate(["attention.query", "attention.value"]),
        description="Linear layers whose magnitude and direction are tuned.",
    )
    magnitude_only: Targets | None = Field(
        None, description="Further linear layers whose magnitude alone is tuned."
    )
    inplace: bool = Field(
        False,
        description="The model's own code writes over what its layers return; more is then kept for"
        " backward. Modules that do so, such as `nn.ReLU(inplace=True)`, are seen without this.",
    )

    def at(self, site: Site) -> Self:
        """Return the configuration for one site; its rank is 0 where the magnitude alone is tuned.

        Raises:
            ConfigError: a per-role field has no value for it.
        """
        settled = super().at(site)
        only = self.magnitude_only is not None and site.matches(self.magnitude_only)
        return settled.model_copy(update={"rank": 0}) if only else settled
