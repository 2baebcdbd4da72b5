"""A heat map of an image-shaped input: how much is asked for each pixel, and which pixels nobody reads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onnxdam.analysis.tensor import Array, Mask
from onnxdam.errors import InputError
from onnxdam.features.manifest import shown

if TYPE_CHECKING:
    from PIL.Image import Image

    from onnxdam.features.ranking import Reading

CHANNELS = (1, 2, 3, 4)  # an axis of so many entries beside two larger ones holds channels
SIDE = 560  # pixels of the longer side of the map, at least
UNREAD = (214, 214, 214)
INK = (40, 40, 40)
# anchors of a scale from dark to light, even in lightness
SCALE = ((16, 12, 60), (80, 18, 108), (152, 38, 98), (214, 72, 66), (248, 136, 36), (252, 220, 120))


def picture(reading: Reading, path: str | Path, *, size: Sequence[int] | None = None) -> None:
    """Writes a PNG heat map; pixels that nobody reads are grey, channels are joined.

    Args:
        reading: what a model reads of the input, from `rank`.
        path: of the PNG file; replaced where it exists.
        size: height and width of an input that is a flattened image, which its shape does not tell; a third number is
            the count of its channels, which then come last.

    Raises:
        InputError: the input is no image, or Pillow is not installed.
    """
    from onnxdam.graph import io

    norm, read = pixels(reading, size)
    drawn = _draw(norm, read, f"{reading.name}: {int(read.sum())} of {read.size} pixels are read")
    with io.staged(path, overwrite=True) as temporary:
        drawn.save(temporary, format="PNG")


def pixels(reading: Reading, size: Sequence[int] | None = None) -> tuple[Array, Mask]:
    """Norm (NaN where there is none) and readness of every pixel (height, width), channels joined.

    Raises:
        InputError: the input is no image, or single pixels of it cannot be told apart.
    """
    sizes, spatial = reading.sizes, _spatial(reading)
    if size is not None:
        if len(size) not in (2, 3) or int(np.prod(size)) != len(reading.read):
            raise InputError(
                f"input {reading.name!r}: an image of {' x '.join(map(str, size))} has {int(np.prod(size))} pixels, "
                f"but there are {len(reading.read)} features"
            )
        sizes, spatial = tuple(size), (0, 1)
    elif spatial is None:
        raise InputError(
            f"input {reading.name!r} {shown(reading.shape)} is not an image; if it is a flattened one, give its height "
            "and width"
        )
    elif not set(spatial) <= set(reading.axes):
        along = f"axis {reading.axes[0]}" if reading.axes else "none"
        raise InputError(
            f"input {reading.name!r} {shown(reading.shape)}: single pixels are not told apart by what reads them "
            f"(features run along: {along}), so there is no picture of them"
        )
    else:
        spatial = (reading.axes.index(spatial[0]), reading.axes.index(spatial[1]))
    norm, read = (np.moveaxis(a.reshape(sizes), spatial, (0, 1)) for a in (reading.norm, reading.read))
    rest = tuple(range(2, norm.ndim))
    known = ~np.isnan(norm)
    total = np.sqrt(np.where(known, np.square(norm), 0).sum(rest))
    return np.where(known.any(rest), total, np.nan), np.asarray(read.any(rest))


def _spatial(reading: Reading) -> tuple[int, int] | None:
    """The axes of height and width, None where the shape is not that of an image."""
    shape = reading.shape
    if len(shape) == 3:
        return 1, 2
    if len(shape) != 4:
        return None
    return (1, 2) if shape[3] in CHANNELS and shape[1] not in CHANNELS else (2, 3)


# ------------------------------------------------------------------------------------------------------- drawing


def _draw(norm: Array, read: Mask, title: str) -> Image:
    try:
        from PIL import Image, ImageDraw
    except ImportError:
        raise InputError("a picture needs Pillow: pip install 'onnxdam[report]'") from None
    factor = max(1, -(-SIDE // max(read.shape)))
    height, width = read.shape[0] * factor, read.shape[1] * factor
    values = norm[read & ~np.isnan(norm)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)
    level = np.clip((np.nan_to_num(norm) - low) / (high - low), 0, 1) if high > low else np.ones(norm.shape)
    colours = np.where(read[..., None], _colours(level), np.array(UNREAD, np.uint8))
    canvas = Image.new("RGB", (max(width, 320) + 24, height + 84), "white")
    canvas.paste(Image.fromarray(colours).resize((width, height), Image.Resampling.NEAREST), (12, 32))
    draw = ImageDraw.Draw(canvas)
    draw.text((12, 10), title, fill=INK)
    top = height + 44
    draw.rectangle((12, top, 24, top + 12), fill=UNREAD, outline=INK)
    draw.text((30, top), "not read", fill=INK)
    if values.size:
        bar = np.broadcast_to(_colours(np.linspace(0, 1, 160))[None], (12, 160, 3))
        canvas.paste(Image.fromarray(np.ascontiguousarray(bar)), (100, top))
        draw.text((100, top + 16), f"{low:.3g}", fill=INK)
        draw.text((260, top + 16), f"{high:.3g}", fill=INK, anchor="ra")
        draw.text((270, top), "norm", fill=INK)
    return canvas


def _colours(level: Array) -> Array:
    """RGB of numbers in [0, 1]."""
    anchors = np.array(SCALE, float)
    at = np.linspace(0, 1, len(anchors))
    return np.stack([np.interp(level, at, anchors[:, c]) for c in range(3)], axis=-1).round().astype(np.uint8)
