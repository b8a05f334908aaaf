"""The method: the parameters that a mask picks are trained, the rest is frozen."""

from collections.abc import Sequence

from peftcore import Method, ParameterInfo, Site, TargetError, hookimpl
from peftcore_fairtune.config import FairtuneConfig
from peftcore_fairtune.spaces import Bit, bits_of

_POSITIONS = "embeddings.position"


class Fairtune(Method):
    """The mask of FairTune, Dutt et al. 2024: what a bit of 1 stands for is trained."""

    config: FairtuneConfig

    @hookimpl
    def peftcore_prepare(self, sites: Sequence[Site]) -> None:
        """Note what each module is; the slices of a fused layer are no modules."""
        self._roles = {site.path: site.role for site in sites if site.features is None}

    @hookimpl
    def peftcore_select_parameters(self, parameters: Sequence[ParameterInfo]) -> list[str]:
        """Return the names of the parameters that the mask picks.

        Raises:
            TargetError: the mask has another length than this model asks for.
        """
        chosen = {name for bit in self._picked(parameters) for name in bit}
        if self._with_positions:
            found = [info.name for info in parameters if info.role == _POSITIONS]
            if not found and self.config.positions:
                raise TargetError(f"{self.label}.positions: this model has no table of positions.")
            chosen.update(found)
        return [info.name for info in parameters if info.name in chosen]

    @property
    def _with_positions(self) -> bool:
        given = self.config.positions
        return self.config.space == "attention_parameters" if given is None else given

    def _picked(self, parameters: Sequence[ParameterInfo]) -> list[Bit]:
        bits = bits_of(self.config.space, parameters, self._roles)
        mask = self.config.mask
        if mask is None:
            return bits
        if len(mask) != len(bits):
            raise TargetError(
                f"{self.label}.mask has {len(mask)} bits; {self.config.space} asks for {len(bits)}"
                " in this model."
            )
        return [bit for bit, one in zip(bits, mask, strict=True) if one == "1"]
