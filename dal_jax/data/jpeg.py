"""Decodes JPEGs with simplejpeg, which releases Python's lock while it decodes.

The pixels equal Pillow's to the last bit, because both call libjpeg-turbo with the same
settings. Pillow handles CMYK, files with an orientation, and damaged files.
"""

import io

import numpy as np

_SOS, _APP1 = b"\xff\xda", b"\xff\xe1"  # begin the pixels, and EXIF or XMP


def is_jpeg(encoded: bytes) -> bool:
    """Whether the bytes begin as a JPEG does."""
    return encoded.startswith(b"\xff\xd8\xff")


def decode_plain(
    encoded: bytes, scaled_to: int | None = None, out: np.ndarray | None = None
) -> np.ndarray | None:
    """Returns the pixels of a grey or colour JPEG, or None if Pillow must decode it.

    Args:
      encoded: the file's bytes.
      scaled_to: decode at a half, a quarter or an eighth of the size: the smallest with
        no side below this, like Pillow's ``draft``.
      out: uint8 ``[H, W, C]``, which is written to and returned if it has the shape of
        the result. It may also be written to when None is returned.

    Returns:
      uint8 ``[H, W, C]`` with C 1 or 3 as stored, or None.
    """
    import simplejpeg
    from PIL import Image

    try:
        *sides, colours, _ = simplejpeg.decode_jpeg_header(encoded)
        height, width = map(int, sides)
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
    """Whether the metadata say that the picture must be rotated or mirrored."""
    from PIL import ExifTags, Image

    position, marker = 2, encoded[2:4]
    while marker[:1] == b"\xff" and marker != _APP1:
        if marker == _SOS:
            return False  # by far the most common: Pillow need not look
        position += 2 + int.from_bytes(encoded[position + 2 : position + 4], "big")
        marker = encoded[position : position + 2]
    with Image.open(io.BytesIO(encoded), formats=["JPEG"]) as image:
        # From EXIF or, where that has none, from XMP. 1 is upright, 2 to 8 are not.
        return image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9)
