"""JPEG by simplejpeg, which lets go of Python's lock while it decodes.

The pixels are Pillow's to the last bit, for both call libjpeg-turbo and ask it for the
same. Whatever has more to it is left to Pillow: ink colours, a turned picture, damage.
"""

import io

import numpy as np

_START_OF_SCAN, _METADATA = 0xDA, 0xE1  # the markers SOS and APP1


def is_jpeg(encoded: bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return encoded.startswith(b"\xff\xd8\xff")


def decode_plain(
    encoded: bytes, scaled_to: int | None = None, out: np.ndarray | None = None
) -> np.ndarray | None:
    """Returns the pixels of a grey or colour JPEG, or None where Pillow has to look.

    Args:
      encoded: the file's bytes.
      scaled_to: decode at a half, a quarter or an eighth of the size, whichever is the
        least with no side below this, as Pillow's ``draft`` does.
      out: uint8 ``[H, W, C]``, which is written to and returned if it has the shape of
        the result. It may also be written to where None is returned.

    Returns:
      uint8 ``[H, W, C]`` with C 1 or 3 as stored, or None.
    """
    import simplejpeg
    from PIL import Image

    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        limit = Image.MAX_IMAGE_PIXELS
        plain = colours in ("Gray", "YCbCr", "RGB") and not _is_turned(encoded)
        if not plain or (limit is not None and height * width > limit):
            return None
        scale = 1 if scaled_to is None else min(height, width) // scaled_to
        scale = next(s for s in (8, 4, 2, 1) if scale >= s or s == 1)
        height, width = -(-height // scale), -(-width // scale)
        shape = (height, width, 1 if colours == "Gray" else 3)
        fits = out is not None and out.shape == shape
        pixels = simplejpeg.decode_jpeg(
            encoded,
            "GRAY" if colours == "Gray" else "RGB",
            min_height=height,
            min_width=width,
            buffer=out if fits else None,
        )
    except ValueError:
        return None  # damaged: Pillow knows what is wrong
    return out if fits else pixels


def _is_turned(encoded: bytes) -> bool:
    """Whether metadata say that the picture is to be turned before it is shown."""
    from PIL import ExifTags, Image

    position = 2
    while encoded[position : position + 1] == b"\xff":
        marker = encoded[position + 1]
        if marker == _START_OF_SCAN:
            return False  # no metadata, as Pillow need not be asked to find
        if marker == _METADATA:
            break
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        # Of EXIF or, where that has none, of XMP; 1 is upright, others mean nothing.
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
