"""Decodes an image file to uint8 pixels, as a person would see them.

- 16-bit grey is scaled to 8 bits (65535 becomes 255); black-and-white becomes 0 and
  255; palette, CMYK and every other colour space becomes RGB.
- Transparent pixels are composited on white, as a web page shows them.
- The EXIF orientation is applied; an embedded colour profile is not. An animation gives
  its first frame.
- ``image_size`` scales the shorter side to that many pixels (bilinear, antialiased)
  and keeps the centre square, so that nothing is stretched.
"""

import io
import os
import stat
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dal_jax.data.jpeg import decode_plain, is_jpeg

if TYPE_CHECKING:
    from PIL import Image


# The formats that Pillow may open; its PPM includes PBM and PGM. It knows many more,
# and starts another program for some of them.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP")


class UnreadableImage(Exception):
    """An image that does not decode; the message is only the reason."""


class OtherSize(Exception):
    """An image of another size than expected; the message is ``width x height``."""


def decode(
    encoded: str | bytes | np.ndarray,
    channels: int,
    image_size: int | None = None,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """Returns the pixels of one image.

    Args:
      encoded: the path of an image file, its bytes, or pixels that are decoded
        already: uint8 ``[H, W, C]`` with 1 or 3 channels.
      channels: 1 for grey or 3 for colour.
      image_size: the side of the square that is kept; None keeps the size.
      out: uint8 ``[H, W, channels]``; the pixels may be written there if they have that
        shape. Use only what is returned.

    Returns:
      uint8 ``[H, W, channels]``.

    Raises:
      UnreadableImage: for anything that is wrong with the file.

    Example:
      >>> grey = np.full([4, 6, 1], 200, np.uint8)
      >>> decode(grey, channels=3, image_size=2).shape
      (2, 2, 3)
    """
    from PIL import UnidentifiedImageError

    try:
        image = _open(encoded, image_size, out)
        if isinstance(image, np.ndarray) and _is_converted(image, channels, image_size):
            return image
        pixels = np.asarray(_convert(image, channels, image_size))
    except MemoryError:
        raise
    except UnidentifiedImageError as error:
        # Pillow's own message holds an address that differs every time.
        raise UnreadableImage("not an image in a known format") from error
    except Exception as error:
        # Decoders raise all kinds of errors on damaged bytes, even SyntaxError.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UnreadableImage(reason) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def decode_rows(
    out: np.ndarray,
    encoded: Sequence[str | bytes | np.ndarray],
    channels: int,
    image_size: int | None,
) -> Iterator[tuple[int, UnreadableImage | OtherSize]]:
    """Decodes images into the rows of ``out``; yields those that cannot be.

    Args:
      out: uint8 ``[B, H, W, C]``, written to.
      encoded: what :func:`decode` takes, ``B`` of them.
      channels: see :func:`decode`.
      image_size: see :func:`decode`.

    Yields:
      The row and the error of each image that does not decode or not to ``H x W``.
    """
    for row, one in enumerate(encoded):
        place = out[row]
        try:
            pixels = decode(one, channels, image_size, out=place)
            if pixels.shape != out.shape[1:]:
                height, width = pixels.shape[:2]
                raise OtherSize(f"{width} x {height}")
            if pixels is not place:
                place[...] = pixels
        except (UnreadableImage, OtherSize) as error:
            yield row, error


def _open(
    encoded: str | bytes | np.ndarray, image_size: int | None, out: np.ndarray | None
) -> "Image.Image | np.ndarray":
    """Returns the picture the right way up, as pixels if it has them already."""
    from PIL import Image, ImageOps

    if isinstance(encoded, str):
        encoded = _read_file(encoded)
    if isinstance(encoded, np.ndarray):
        return encoded
    # A JPEG can be decoded at a fraction of its size; twice the wanted size is enough
    # for the antialiased resize.
    least = None if image_size is None else 2 * image_size
    if is_jpeg(encoded):
        pixels = decode_plain(encoded, least, out)
        if pixels is not None:
            return pixels
    image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    if least is not None:
        image.draft(None, (least, least))
    ImageOps.exif_transpose(image, in_place=True)
    return _to_8_bits(image)


def _read_file(path: str) -> bytes:
    # Opening a named pipe waits until somebody writes to it; a device may do anything.
    if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116 (a third of the time)
        raise ValueError("not a regular file")
    # Pillow itself reads a file in pieces, and a Path costs as much as the reading.
    with io.FileIO(path) as file:
        return file.readall()


def _is_converted(pixels: np.ndarray, channels: int, image_size: int | None) -> bool:
    height, width = (image_size or side for side in pixels.shape[:2])
    return pixels.shape == (height, width, channels)


def _convert(
    image: "Image.Image | np.ndarray", channels: int, image_size: int | None
) -> "Image.Image":
    from PIL import Image, ImageOps

    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
    mode = "L" if channels == 1 else "RGB"
    # Pillow would copy even if there is nothing to convert.
    image = image if image.mode == mode else image.convert(mode)
    if image_size is not None and image.size != (image_size, image_size):
        size = (image_size, image_size)
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
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
