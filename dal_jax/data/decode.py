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
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL import Image


class UnreadableImage(Exception):
    """An image that does not decode; the message is the reason alone."""


class OtherSize(Exception):
    """An image of another size than expected; the message is ``width x height``."""


# The row of each image that could not be written to a batch, and why.
Failures = Sequence[tuple[int, UnreadableImage | OtherSize]]


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
        try:
            pixels = decode(one, channels, image_size)
            if pixels.shape != out.shape[1:]:
                height, width = pixels.shape[:2]
                raise OtherSize(f"{width} x {height}")
            out[row] = pixels
        except (UnreadableImage, OtherSize) as error:
            yield row, error


def decode_batch(
    shape: tuple[int, ...],
    encoded: Sequence[str | bytes | np.ndarray],
    channels: int,
    image_size: int | None,
) -> tuple[np.ndarray, Failures]:
    """Decodes images into one new array.

    Args:
      shape: ``(B, H, W, C)``.
      encoded: what :func:`decode` takes, ``B`` of them.
      channels: see :func:`decode`.
      image_size: see :func:`decode`.

    Returns:
      uint8 ``[B, H, W, C]``, and what :func:`decode_rows` yields.
    """
    out = np.empty(shape, np.uint8)
    return out, list(decode_rows(out, encoded, channels, image_size))


def _open(encoded: str | bytes | np.ndarray, image_size: int | None) -> "Image.Image":
    from PIL import Image, ImageOps

    if isinstance(encoded, np.ndarray):
        return Image.fromarray(encoded[..., 0] if encoded.shape[-1] == 1 else encoded)
    if isinstance(encoded, str):
        # Pillow itself reads a file in pieces, and a Path costs as much as the reading.
        with io.FileIO(encoded) as file:
            encoded = file.readall()
    image = Image.open(io.BytesIO(encoded))
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
