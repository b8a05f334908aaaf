"""FourierFT: which frequencies are learned, and the update that they make."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import (
    Delta,
    LayerInfo,
    Method,
    MethodConfig,
    Site,
    TargetError,
    hookimpl,
    trainable_dtype,
)
from peftcore_fourierft.config import FourierFtConfig


class Spectrum(Delta):
    """Update α Re(IFFT2(F)), with n learned entries in F (Gao et al. 2024, eq. 2 to 4)."""

    casts_itself = True

    def __init__(self, layer: LayerInfo, places: Tensor, scaling: float):
        super().__init__()
        self.sizes = (layer.out_features, layer.in_features)
        self.scaling = scaling
        dtype = trainable_dtype(layer.dtype)
        self.fourierft_spectrum = nn.Parameter(
            torch.zeros(places.shape[1], dtype=dtype, device=layer.device)
        )
        self.register_buffer("places", places, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        return F.linear(x, self.weight_delta().to(x.dtype))

    def weight_delta(self) -> Tensor:
        """Return the update, [out, in]."""
        values: Tensor = self.fourierft_spectrum
        # there is no Fourier transform of low precision
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        rows, columns = self.places  # type: ignore[misc]
        spectrum = values.new_zeros(self.sizes).index_put((rows, columns), values)
        change: Tensor = torch.fft.ifft2(spectrum).real * self.scaling
        return change


class FourierFt(Method):
    """Fourier fine-tuning, Gao et al. 2024, without a preference for a band of frequencies."""

    config: FourierFtConfig

    def __init__(self, config: MethodConfig):
        super().__init__(config)
        self._orders: dict[tuple[int, int], Tensor] = {}

    @hookimpl
    def peftcore_rewrite_module(self, site: Site) -> Spectrum | None:
        """Return the update of a targeted linear layer.

        Raises:
            TargetError: the layer is no linear one, or has fewer values than frequencies.
        """
        if not site.matches(self.config.targets):
            return None
        layer, here = site.layer, site.here
        self.check_linear(site, "FourierFT updates linear layers")
        count, most = site.setting(self.config.n_frequency), layer.in_features * layer.out_features
        if count > most:
            raise TargetError(
                f"{self.label}.n_frequency: {count} frequencies are more than the {most} values of"
                f" the weight of {here}. Write n_frequency: {most} or less, or for this role alone"
                f' n_frequency: {{"{site.role}": {most}, "default": {count}}}.'
            )
        return Spectrum(layer, self._places(layer, count), self.config.scaling)

    def _places(self, layer: LayerInfo, count: int) -> Tensor:
        """Return rows and columns of the frequencies, [2, n]; drawn once for layers of a size."""
        size = layer.in_features * layer.out_features
        if layer.device.type == "meta":
            return torch.empty(2, count, dtype=torch.long, device=layer.device)
        if (size, count) not in self._orders:
            # drawn on the CPU: the same frequencies on every machine
            generator = torch.Generator("cpu").manual_seed(self.config.random_loc_seed)
            order = torch.randperm(size, generator=generator, device="cpu")
            self._orders[size, count] = order[:count].clone()
        order = self._orders[size, count]
        places = torch.stack([order // layer.in_features, order % layer.in_features])
        return places.to(layer.device)
