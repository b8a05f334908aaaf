"""FourierFT: which frequencies are learned, and the update that they make."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peftcore import Delta, LayerInfo, Site, Targeted
from peftcore_fourierft.config import FourierFtConfig


class Frequencies(nn.Module):
    """Rows and columns of n random entries of a spectrum [out, in]; never stored."""

    places: Tensor

    def __init__(self, layer: LayerInfo, count: int, seed: int):
        super().__init__()
        self.sizes = (layer.out_features, layer.in_features)
        self.register_buffer("places", torch.empty(2, count, dtype=torch.long), persistent=False)
        if not self.places.is_meta:  # a permutation of a large weight takes seconds
            # drawn on the CPU: the same frequencies on every machine
            generator = torch.Generator("cpu").manual_seed(seed)
            size = layer.out_features * layer.in_features
            order = torch.randperm(size, generator=generator, device="cpu")[:count]
            self.places[0] = order // layer.in_features
            self.places[1] = order % layer.in_features


class Spectrum(Delta):
    """Update α Re(IFFT2(F)), with n learned entries in F (Gao et al. 2024, eq. 2 to 4)."""

    casts_itself = True

    def __init__(self, frequencies: Frequencies, scaling: float):
        super().__init__()
        self.frequencies = frequencies
        self.scaling = scaling
        self.fourierft_spectrum = nn.Parameter(torch.zeros(frequencies.places.shape[1]))

    def forward(self, x: Tensor) -> Tensor:
        """Return the update, [..., out], of activations [..., in]."""
        return F.linear(x, self.weight_delta().to(x.dtype))

    def weight_delta(self) -> Tensor:
        """Return the update, [out, in]."""
        values: Tensor = self.fourierft_spectrum
        # there is no Fourier transform of low precision
        values = values.to(torch.promote_types(values.dtype, torch.float32))
        places = tuple(self.frequencies.places)
        spectrum = values.new_zeros(self.frequencies.sizes).index_put(places, values)
        change: Tensor = torch.fft.ifft2(spectrum).real * self.scaling
        return change


class FourierFt(Targeted):
    """Fourier fine-tuning, Gao et al. 2024, without a preference for a band of frequencies."""

    def piece(self, site: Site, config: FourierFtConfig) -> Spectrum:
        """Return the update of a targeted layer; layers of a size share their frequencies."""
        layer, count = site.layer, config.n_frequency
        frequencies = self.shared(
            (layer.weight_shape, count, layer.device),
            lambda: Frequencies(layer, count, config.random_loc_seed),
        )
        return Spectrum(frequencies, config.scaling)
