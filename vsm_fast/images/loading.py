"""Loading of images from any source as upright 8-bit sRGB pixels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from vsm_fast.errors import InputError, Status, out_of_memory
from vsm_fast.images.decoding import Decoded, check_size, decode, default_max_pixels, orient
from vsm_fast.images.storage import StoredImage

if TYPE_CHECKING:
    from PIL import ImageCms

ImageSource = str | os.PathLike[str] | Image.Image | NDArray[Any] | torch.Tensor | StoredImage
TOLERANCE = 1e-3  # beyond [0, 1]: rounding in a network's output, not another range
_NAMES = {"1": "1-bit", "L": "grey", "LA": "grey", "La": "grey", "P": "palette", "PA": "palette"}
_HIGH = {"I": "16-bit", "F": "float"}  # and the modes I;16, I;16B, I;16L, I;16N


@dataclass(frozen=True)
class LoadedImage:
    """Upright sRGB image.

    Attributes:
        pixels: uint8 [H, W, 3], RGB; transparent parts are composited on white.
        alpha: bool [H, W], True where alpha > 127; None without transparency.
        notes: Conversions, like ``"cmyk->rgb"`` or ``"exif rotated"``.
        orientation: EXIF orientation of the stored image in 1..8, already applied.
    """

    pixels: NDArray[np.uint8]
    alpha: NDArray[np.bool_] | None
    notes: tuple[str, ...] = ()
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of ``pixels``."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def stored_size(self) -> tuple[int, int]:
        """(height, width) before the EXIF orientation was applied."""
        return self.size[::-1] if self.orientation >= 5 else self.size


def load_image(source: ImageSource, *, max_pixels: int | None = None) -> LoadedImage:
    """Load an image as upright 8-bit sRGB pixels.

    EXIF orientation and an embedded ICC profile are applied. An animation contributes its first
    frame, an open PIL image its current one. 16-bit grey is scaled by 255 / 65535, float grey and
    float arrays by 255, both rounded; 16-bit colour keeps its high byte. Transparent parts are
    composited on white, because the colours under them are arbitrary.

    Args:
        source: One of

            - the path of a PNG, JPEG, WebP, BMP, TIFF, GIF, PPM or AVIF file;
            - a PIL image of any mode, or a ``StoredImage``;
            - a uint8 array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (RGBA);
            - a float array [H, W, 3] in [0, 1];
            - a tensor [3, H, W], float in [0, 1] or uint8, on any device.
        max_pixels: Largest width x height, checked before a file is decoded; None = 80 million,
            or the value of the environment variable ``VSM_FAST_MAX_PIXELS``.

    Raises:
        InputError: With ``MISSING_FILE``, ``UNREADABLE`` (no image, damaged, wrong shape or type),
            ``TOO_LARGE`` or ``BAD_VALUES`` (NaN, Inf, or outside [0, 1]).
    """
    limit = default_max_pixels() if max_pixels is None else max_pixels
    if isinstance(source, str | os.PathLike | Image.Image | StoredImage):
        return _from_decoded(decode(source, limit))
    if isinstance(source, np.ma.MaskedArray):
        raise InputError(
            Status.UNREADABLE,
            "a masked array has undefined values. Pass array.filled(value).",
        )
    if isinstance(source, np.ndarray):
        return _from_array(np.asarray(source), limit)  # np.matrix has no third axis
    if isinstance(source, torch.Tensor):
        return _from_tensor(source, limit)
    raise InputError(
        Status.UNREADABLE,
        f"an image must be a path, a PIL image, an array or a tensor; got {type(source).__name__}.",
    )


def _from_decoded(decoded: Decoded) -> LoadedImage:
    image, notes = decoded.image, list(decoded.notes)
    profile = image.info.get("icc_profile")
    alpha = None
    try:
        if image.mode.startswith("I;16") or image.mode in _HIGH:
            grey, alpha = _high_depth(image, notes)
            image = Image.fromarray(grey)
        if image.has_transparency_data:
            straight = image.convert("LA") if image.mode == "La" else image
            full = straight.convert("RGBA")
            alpha = np.asarray(full.getchannel("A"))
            is_grey = image.mode in ("1", "L", "LA", "La")
            colours = full.getchannel("R") if is_grey else full.convert("RGB")
        else:
            target = {"1": "L", "L": "L", "CMYK": "CMYK"}.get(image.mode, "RGB")
            colours = image.convert(target)
        managed = _managed(colours, profile, notes) if profile else None
        if image.mode not in ("RGB", "RGBA", "RGBX"):
            notes.append(f"{_NAMES.get(image.mode, image.mode.lower())}->rgb")
        rgb = np.array(colours.convert("RGB") if managed is None else managed)
    except InputError:
        raise
    except MemoryError as error:
        raise InputError(Status.TOO_LARGE, "the image does not fit into memory.") from error
    except (ValueError, OSError) as error:
        raise InputError(
            Status.UNREADABLE,
            f"an image of mode {decoded.image.mode} cannot be converted to RGB: {error}. "
            "Save it as an RGB PNG.",
        ) from error
    pixels, mask = _on_white(rgb, alpha, notes)
    return LoadedImage(
        orient(pixels, decoded.pending),
        None if mask is None else orient(mask, decoded.pending),
        tuple(notes),
        decoded.orientation,
    )


def _high_depth(
    image: Image.Image, notes: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Convert an image of mode I;16, I or F to 8-bit grey and alpha."""
    values = np.asarray(image)
    kind = _HIGH.get(image.mode, "16-bit")
    if image.mode == "F":
        grey = _unit_to_bytes(values, "the float image")
    else:
        low, high = int(values.min()), int(values.max())
        if low < 0 or high > 65535:
            raise InputError(
                Status.BAD_VALUES,
                f"an image of 32-bit integers must lie in [0, 65535]; its values run from {low} "
                f"to {high}. Save it with 8 or 16 bits.",
            )
        # Pillow reads 16-bit PNG and PPM as "I" too; in other formats "I" can hold 8-bit values.
        if image.mode == "I" and image.format not in ("PNG", "PPM") and high <= 255:
            kind, grey = "32-bit", values.astype(np.uint8)
        else:
            grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    notes.append(f"{kind}->8-bit")
    transparent = image.info.get("transparency")
    if not isinstance(transparent, int):
        return grey, None
    return grey, np.where(values == transparent, 0, 255).astype(np.uint8)


def _managed(image: Image.Image, profile: bytes, notes: list[str]) -> Image.Image | None:
    """Convert an image to sRGB; None if its profile has no effect or is unusable."""
    from PIL import ImageCms

    try:
        transform = _to_srgb(profile, image.mode)
        if transform is None:
            return None
        converted = ImageCms.applyTransform(image, transform)
    except ImportError:  # raised on first use by a Pillow without LittleCMS
        notes.append("icc profile ignored (this Pillow has no LittleCMS)")
        return None
    except (ImageCms.PyCMSError, OSError, TypeError, ValueError):
        notes.append("icc profile ignored (it is damaged or does not fit the image)")
        return None
    notes.append("icc profile->srgb")
    return converted


@lru_cache(maxsize=32)
def _to_srgb(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the transform from a profile to sRGB; None if it changes nothing visible."""
    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    transform = ImageCms.buildTransform(source, ImageCms.createProfile("sRGB"), mode, "RGB")
    if mode == "CMYK":
        return transform
    # Profile names are unreliable: "sRGB" occurs in linear profiles, and sRGB is also called "c2".
    levels = np.arange(0, 256, 17, dtype=np.uint8)
    cube = np.stack(np.meshgrid(levels, levels, levels), axis=-1).reshape(64, 64, 3)
    probe = Image.fromarray(cube if mode == "RGB" else np.ascontiguousarray(cube[..., 0]))
    before = np.asarray(probe.convert("RGB")).astype(np.int16)
    after = np.asarray(ImageCms.applyTransform(probe, transform)).astype(np.int16)
    return None if np.abs(after - before).max() <= 2 else transform


def _on_white(
    rgb: NDArray[np.uint8], alpha: NDArray[np.uint8] | None, notes: list[str]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_] | None]:
    """Composite colours on white and return the alpha mask; an opaque alpha counts as none."""
    if alpha is None or alpha.min() == 255:
        return rgb, None
    weight = alpha[..., None].astype(np.uint16)
    mixed = (rgb * weight + 255 * (255 - weight) + 127) // 255
    notes.append("transparency on white")
    return mixed.astype(np.uint8), alpha > 127


def _from_array(array: NDArray[Any], max_pixels: int, name: str = "the array") -> LoadedImage:
    floating = array.dtype.kind == "f"
    channels = array.shape[2:] if array.ndim == 3 else ()
    fits = channels == (3,) if floating else array.ndim == 2 or channels in ((1,), (3,), (4,))
    if not fits or not (floating or array.dtype == np.uint8):
        raise InputError(
            Status.UNREADABLE,
            "an image array must be uint8 [H, W], [H, W, 3] or [H, W, 4], or float [H, W, 3] in "
            f"[0, 1]; got {array.dtype} {list(array.shape)}.{_advice(array.shape)}",
        )
    check_size(array.shape[1], array.shape[0], name, max_pixels)
    if floating:
        return LoadedImage(_unit_to_bytes(array, name), None, ("float->8-bit",))
    notes: list[str] = []
    if not channels or channels == (1,):
        notes.append("grey->rgb")
        array = np.repeat(array.reshape(*array.shape[:2], 1), 3, axis=2)
    rgb = np.array(array[..., :3], order="C")  # a copy: callers may reuse their buffer
    pixels, alpha = _on_white(rgb, array[..., 3] if channels == (4,) else None, notes)
    return LoadedImage(pixels, alpha, tuple(notes))


def _from_tensor(tensor: torch.Tensor, max_pixels: int) -> LoadedImage:
    if tensor.is_nested:
        raise InputError(
            Status.UNREADABLE, "an image is a nested tensor. Pass its parts: tensor.unbind()."
        )
    numeric = tensor.dtype == torch.uint8 or tensor.dtype.is_floating_point
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not numeric:
        raise InputError(
            Status.UNREADABLE,
            f"an image tensor must be [3, H, W], float in [0, 1] or uint8; got "
            f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}."
            f"{_advice(tuple(tensor.shape))}",
        )
    check_size(tensor.shape[2], tensor.shape[1], "the tensor", max_pixels)  # before the copy
    try:
        values = tensor_values(tensor)
    except TypeError as error:
        raise InputError(Status.UNREADABLE, str(error)) from error
    return _from_array(values.transpose(1, 2, 0), max_pixels, "the tensor")


def tensor_values(tensor: torch.Tensor) -> NDArray[Any]:
    """Copy a tensor to an array in main memory; floating-point values become float32.

    Raises:
        TypeError: If it has no readable values: sparse, nested, quantised, or on device "meta".
    """
    try:
        values = tensor.detach().cpu()
        return np.asarray(values.float() if values.dtype.is_floating_point else values)
    except (RuntimeError, TypeError) as error:
        if out_of_memory(error):
            raise
        raise TypeError(
            f"a tensor of layout {str(tensor.layout).removeprefix('torch.')} on {tensor.device} "
            f"has no readable values: {str(error).splitlines()[0]} Pass a dense tensor in memory, "
            "by to_dense() or dequantize()."
        ) from error


def _advice(shape: tuple[int, ...]) -> str:
    if len(shape) == 4:
        return " This is a batch: pass its images one by one, or the whole batch to score_batch."
    if len(shape) == 3 and shape[0] == 3:
        return " Arrays have the channels last: array.transpose(1, 2, 0)."
    if len(shape) == 3 and shape[2] == 3:
        return " Tensors have the channels first: tensor.permute(2, 0, 1)."
    return ""


def _unit_to_bytes(values: NDArray[Any], name: str) -> NDArray[np.uint8]:
    """Scale values in [0, 1] to uint8 in [0, 255], rounded to nearest."""
    low, high = float(values.min()), float(values.max())  # NaN if any value is
    if not np.isfinite([low, high]).all():
        count = int((~np.isfinite(values)).sum())
        raise InputError(
            Status.BAD_VALUES,
            f"{name} contains NaN or Inf: {count} values of {values.size}. Pass finite values in "
            "[0, 1].",
        )
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        hint = "(x + 1) / 2 maps [-1, 1] to it" if low < 0 else "x / 255 maps [0, 255] to it"
        raise InputError(
            Status.BAD_VALUES,
            f"{name} must lie in [0, 1]; its values run from {low:.4g} to {high:.4g}. {hint}.",
        )
    scaled = np.asarray(values, np.float32, order="C") * 255
    pixels: NDArray[np.uint8] = np.rint(scaled.clip(0, 255)).astype(np.uint8)
    return pixels
