"""One image file to uint8 pixels, as a person looking at it would expect them.

- 16-bit grey is scaled to 8 bits (65535 becomes 255); black-and-white becomes 0 and
  255; palette, CMYK and every other colour space becomes RGB.
- Transparent pixels are composited on white, as a page shows them.
- The EXIF orientation is applied; of an animation the first frame counts; an embedded
  colour profile is not.
- ``image_size`` scales the shorter side to that many pixels (bilinear, antialiased)
  and keeps the centre square, so that nothing is stretched.
"""

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class UnreadableImage(Exception):
    """An image that does not decode; the message is the reason alone."""


def decode(
    encoded: str | bytes | np.ndarray, channels: int, image_size: int | None = None
) -> np.ndarray:
    """Returns the pixels of one image.

    Args:
      encoded: the path of an image file, its bytes, or pixels that are decoded
        already: uint8 ``[H, W, C]`` with 1 or 3 channels.
      channels: 1 for grey or 3 for colour.
      image_size: the side of the square that is kept; None keeps the size.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      UnreadableImage: whatever is wrong with the file.

    Example:
      >>> grey = np.full([4, 6, 1], 200, np.uint8)
      >>> decode(grey, channels=3, image_size=2).shape
      (2, 2, 3)
    """
    from PIL import ImageOps, UnidentifiedImageError

    try:
        image = _to_8_bits(_open(encoded, image_size))
        mode = "L" if channels == 1 else "RGB"
        # Pillow copies where there is nothing to convert.
        image = image if image.mode == mode else image.convert(mode)
        if image_size is not None and image.size != (image_size, image_size):
            from PIL.Image import Resampling

            size = (image_size, image_size)
            image = ImageOps.fit(image, size, Resampling.BILINEAR)
        pixels = np.asarray(image)
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own words hold an address that differs every time.
        raise UnreadableImage("not an image in a known format") from error
    except Exception as error:
        # Decoders raise anything at all on damaged bytes, SyntaxError included.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(reason) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def _open(encoded: str | bytes | np.ndarray, image_size: int | None) -> "Image.Image":
    from PIL import Image, ImageOps

    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded[..., 0] if encoded.shape[-1] == 1 else encoded)
    if isinstance(encoded, bytes):
        encoded_bytes = encoded
    else:
        encoded_bytes = Path(encoded).read_bytes()
    image = Image.open(io.BytesIO(encoded_bytes))
    if image_size is not None:
        # A JPEG can be decoded at a fraction of its size; twice the wanted size
        # leaves the antialiased resize what it needs.
        image.draft(None, (2 * image_size, 2 * image_size))
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _to_8_bits(image: "Image.Image") -> "Image.Image":
    from PIL import Image

    if image.mode.startswith("I"):
        levels = np.asarray(image).astype(np.int64)
        if levels.min() < 0 or levels.max() > 65535:
            raise ValueError("32-bit integer pixels have no known range")
        return Image.fromarray(np.rint(levels / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating point pixels have no known range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image)
    return image
