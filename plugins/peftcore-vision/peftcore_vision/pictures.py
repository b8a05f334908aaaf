"""Files to images, and images to what a network takes: as they are, or changed at random."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from peftcore import ConfigError, DataError
from peftcore_train.data import content
from peftcore_vision.dicom import Window, is_dicom, pixels_of

#: Deepest value of an image of 16 bits, over that of 8.
_SIXTEEN_TO_EIGHT = 257
View = Callable[[Image.Image], Tensor]


def opened(
    place: str | Path, where: str, *, small: bool = False, window: Window | None = None
) -> Image.Image:
    """Return the whole image of a file in RGB, upright as its camera says.

    Grey becomes three equal channels, 16 bits become 8, and what is transparent becomes white.

    Args:
        place: a file, or what :func:`located` returned.
        where: the row, for messages.
        small: any size will do, which is faster for JPEG.
        window: centre and width of what is shown of a DICOM image, where not its own.

    Raises:
        DataError: the file is no image, or is cut off.
    """
    raw = content(str(place), where)
    try:
        if is_dicom(raw, str(place)):
            return pixels_of(raw, window).convert("RGB")
        with Image.open(io.BytesIO(raw)) as image:
            if small:
                image.draft("RGB", (1, 1))
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # decoders raise whatever they like
        lines = str(error).strip().splitlines()
        reason = (lines[0] if lines else type(error).__name__).rstrip(".")
        raise DataError(f"{where}: {place} is no image that can be read: {reason}.") from None


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        image = _eight_bits(image)
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, "white")
        image = Image.alpha_composite(white, layered)
    return image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    import numpy as np

    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all():
        raise ValueError("it holds values that are no numbers")
    if image.mode == "F":  # of any scale
        low, high = values.min(), values.max()
        values = (values - low) * (255 / (high - low) if high > low else 0)
    elif values.max(initial=0) > 255 or image.mode.startswith("I;16"):
        values = values / _SIXTEEN_TO_EIGHT
    return Image.fromarray(values.round().clip(0, 255).astype(np.uint8))


class Views:
    """The two ways of one network to look at images: as they are, and changed at random.

    Args:
        processor: what a backbone gives as its tokenizer: a transform of timm, or an image
            processor of transformers.
        source: the backbone, for messages.

    Raises:
        ConfigError: it is neither.
    """

    def __init__(self, processor: Any, source: str):
        self._processor = processor
        self._steps = list(getattr(processor, "transforms", ()))
        if not self._steps and not hasattr(processor, "image_mean"):
            raise ConfigError(
                f"backbone.source {source}: it says nothing of how its images are prepared. Save an"
                " image processor beside the weights."
            )
        blank = Image.new("RGB", (64, 64))
        self.size: tuple[int, int] = tuple(self.plain(blank).shape[-2:])  # type: ignore[assignment]

    def plain(self, image: Image.Image) -> Tensor:
        """Return an image as the network was trained to see it, [C, H, W]."""
        if self._steps:
            made: Tensor = self._processor(image)
            return made
        return self._processed(image)

    def changed(
        self, image: Image.Image, generator: torch.Generator, *, scale: float | None, flip: bool
    ) -> Tensor:
        """Return a part of an image in full size, and perhaps its mirror image, [C, H, W].

        Args:
            image: the image.
            generator: all chance is in it.
            scale: least share of the image that is kept; all of it, as :meth:`plain`, if None.
            flip: mirror every second one.
        """
        seed = int(torch.randint(2**62, (), generator=generator))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # torchvision draws from the global generator
            seen = self.plain(image) if scale is None else self._part(image, scale)
            mirrored = flip and bool(torch.rand(()) < 0.5)
        return seen.flip(-1) if mirrored else seen

    def _part(self, image: Image.Image, scale: float) -> Tensor:
        from torchvision.transforms import InterpolationMode, RandomResizedCrop

        how = next((s.interpolation for s in self._steps if hasattr(s, "interpolation")), None)
        crop = RandomResizedCrop(
            self.size, scale=(scale, 1.0), interpolation=how or InterpolationMode.BICUBIC
        )
        part: Any = crop(image)
        if not self._steps:
            return self._processed(part, do_resize=False, do_center_crop=False)
        first = next(i for i, s in enumerate(self._steps) if "ToTensor" in type(s).__name__)
        for step in self._steps[first:]:
            part = step(part)
        made: Tensor = part
        return made

    def _processed(self, image: Image.Image, **options: bool) -> Tensor:
        done = self._processor(images=image, return_tensors="pt", **options)
        pixels: Tensor = done["pixel_values"][0]
        return pixels
