"""DICOM files to images of 8 bits, through pydicom: one frame, windowed, never inverted."""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pydicom import Dataset

#: Where the prefix of a DICOM file stands, behind a preamble of any content.
_PREFIX = slice(128, 132)
_ENDINGS = (".dcm", ".dicom")
#: Far out of every window.
_FAR = float(2**40)
Window = tuple[float, float]


def is_dicom(content: bytes, name: str) -> bool:
    """Tell whether bytes are a DICOM file; by the name alone where the prefix was left out."""
    return content[_PREFIX] == b"DICM" or name.lower().endswith(_ENDINGS)


def pixels_of(content: bytes, window: Window | None) -> Image.Image:
    """Return the one image of a DICOM file, grey or RGB of 8 bits; what is dense is white.

    Stored values become those of the modality (Hounsfield units for CT), then the window becomes
    black to white: the one given, else the file's first, else from the least to the greatest value.

    Args:
        content: the file.
        window: centre and width in values of the modality.

    Raises:
        ValueError: it holds no pixels, several frames, or is compressed as nothing here reads.
    """
    try:
        from pydicom import dcmread
        from pydicom.pixels import pixel_array
    except ImportError:
        raise ValueError(
            "reading DICOM needs pydicom: pip install 'peftcore-vision[dicom]'"
        ) from None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of values that no image depends on
        data = dcmread(io.BytesIO(content), force=True)
        _check(data)
        try:
            values = pixel_array(data)
        except RuntimeError as error:
            syntax = data.file_meta.TransferSyntaxUID.name
            raise ValueError(
                f"nothing installed decodes {syntax}; pip install pylibjpeg pylibjpeg-libjpeg"
                " pylibjpeg-openjpeg"
            ) from error
        if data.PhotometricInterpretation == "PALETTE COLOR":
            from pydicom.pixels import apply_color_lut

            return _colours(apply_color_lut(values, data)[..., :3])
        if values.ndim == 3:
            return _colours(values)
        return Image.fromarray(_grey(values, data, window))


def _check(data: Dataset) -> None:
    """Refuse what is not one image.

    Raises:
        ValueError: it has no pixels, or several frames.
    """
    if "PixelData" not in data:
        kind = data.get("Modality") or "unknown"
        raise ValueError(f"a DICOM file without pixels (modality {kind})")
    frames = int(data.get("NumberOfFrames") or 1)
    if frames > 1:
        raise ValueError(
            f"a DICOM file of {frames} frames; one image is asked for, so write the frames that"
            " matter as files of their own"
        )


def _grey(values: np.ndarray[Any, Any], data: Dataset, window: Window | None) -> Any:
    from pydicom.pixels import apply_modality_lut, apply_voi_lut, apply_windowing

    values = apply_modality_lut(values, data).astype(np.float64)
    if window is not None:
        data.WindowCenter, data.WindowWidth = window
        data.VOILUTFunction = "LINEAR"
        shown, low, high = _windowed(values, lambda v: apply_windowing(v, data))
    elif "VOILUTSequence" in data:
        shown = apply_voi_lut(values.astype(np.int64), data).astype(np.float64)
        low, high = 0.0, float(2 ** int(data.VOILUTSequence[0].LUTDescriptor[2]) - 1)
    elif data.get("WindowWidth") not in (None, ""):
        shown, low, high = _windowed(values, lambda v: apply_windowing(v, data))
    else:
        shown, low, high = values, float(values.min()), float(values.max())
    grey = (shown - low) / (high - low) if high > low else np.zeros_like(shown)
    if data.PhotometricInterpretation == "MONOCHROME1":
        grey = 1 - grey
    return (grey.clip(0, 1) * 255).round().astype(np.uint8)


def _windowed(values: np.ndarray[Any, Any], apply: Any) -> tuple[Any, float, float]:
    """Return values in a window, with what is black and what is white."""
    out = apply(np.concatenate([values.ravel(), [-_FAR, _FAR]]))
    return out[:-2].reshape(values.shape), float(out[-2]), float(out[-1])


def _colours(values: np.ndarray[Any, Any]) -> Image.Image:
    if values.dtype.itemsize > 1:
        top = np.iinfo(values.dtype).max
        values = (values.astype(np.float64) * (255 / top)).round()
    return Image.fromarray(values.astype(np.uint8))
