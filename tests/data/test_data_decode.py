"""Every kind of image file decodes to what a person sees."""

import io

import numpy as np
import pytest
from PIL import Image

from dal_jax.data.decode import UnreadableImage, decode


def encode(image, form="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


GRADIENT = np.arange(6 * 4 * 3, dtype=np.uint8).reshape(4, 6, 3) * 3


def test_colour_is_kept_and_grey_is_luma():
    encoded = encode(Image.fromarray(GRADIENT))
    pixels = decode(encoded, 3)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, GRADIENT)
    grey = decode(encoded, 1)
    assert grey.shape == (4, 6, 1)
    luma = GRADIENT @ np.array([0.299, 0.587, 0.114])
    assert np.abs(grey[..., 0] - luma).max() <= 1


def test_grey_becomes_colour():
    levels = GRADIENT[..., 0]
    pixels = decode(encode(Image.fromarray(levels)), 3)
    for channel in range(3):
        np.testing.assert_array_equal(pixels[..., channel], levels)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_16_bits_are_scaled_to_8(form):
    levels = np.array([[0, 128, 257], [32768, 65407, 65535]], np.uint16)
    pixels = decode(encode(Image.fromarray(levels), form), 1)
    expected = [[0, 0, 1], [128, 255, 255]]  # rounded levels / 257; 65407 is 254.5
    assert pixels[..., 0].tolist()[0] == expected[0]
    assert np.abs(pixels[..., 0].astype(int) - expected).max() <= 1
    assert pixels[1, 0, 0] == 128
    assert pixels[1, 2, 0] == 255


def test_black_and_white_is_0_and_255():
    image = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    assert decode(encode(image), 1)[..., 0].tolist() == [[0, 255], [255, 0]]


def test_palette_is_looked_up():
    image = Image.fromarray(np.array([[0, 1]], np.uint8), "L").convert("P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    assert decode(encode(image), 3)[0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_cmyk_becomes_rgb():
    ink = np.zeros([8, 8, 4], np.uint8)
    ink[..., 0] = 255  # cyan absorbs red
    image = Image.fromarray(ink, "CMYK")
    for form in ("TIFF", "JPEG"):
        red, green, blue = decode(encode(image, form), 3).reshape(-1, 3).mean(axis=0)
        assert red < 5
        assert green > 250
        assert blue > 250


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA-like", "RGB-keyed"])
def test_transparency_shows_white(mode):
    if mode == "RGB-keyed":
        image = Image.new("RGB", (2, 1), (10, 20, 30))
        image.putpixel((1, 0), (1, 2, 3))
        encoded = encode(image, transparency=(10, 20, 30))
        expected = [[255, 255, 255], [1, 2, 3]]
    elif mode == "PA-like":
        image = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
        image.putpalette([9, 9, 9, 1, 2, 3])
        encoded = encode(image, transparency=0)
        expected = [[255, 255, 255], [1, 2, 3]]
    else:
        image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
        image.putpixel((1, 0), (50, 50, 50, 255))
        encoded = encode(image.convert(mode))
        expected = [[255, 255, 255], [50, 50, 50]]
    assert decode(encoded, 3)[0].tolist() == expected


def test_exif_orientation_is_applied():
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    pixels = decode(encode(Image.fromarray(GRADIENT), exif=exif), 3)
    np.testing.assert_array_equal(pixels, np.rot90(GRADIENT, k=-1))


def test_animation_shows_its_first_frame():
    frames = [Image.new("RGB", (2, 2), colour) for colour in ("red", "blue")]
    encoded = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode(encoded, 3)[0, 0].tolist() == [255, 0, 0]


def test_resize_keeps_the_centre_square_undistorted():
    wide = np.zeros([10, 30, 3], np.uint8)
    wide[:, 10:20] = 255
    np.testing.assert_array_equal(
        decode(encode(Image.fromarray(wide)), 3, image_size=10), wide[:, 10:20]
    )
    assert decode(encode(Image.fromarray(wide)), 3, image_size=5).min() > 200


def test_resize_averages_instead_of_dropping_pixels():
    board = (np.indices([32, 32]).sum(axis=0) % 2 * 255).astype(np.uint8)
    small = decode(encode(Image.fromarray(board)), 1, image_size=4)
    assert np.abs(small.astype(int) - 127).max() <= 2


@pytest.mark.parametrize(("image_size", "details"), [(32, 9), (200, 45)])
def test_large_jpeg_decoded_at_a_fraction_looks_the_same(image_size, details):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, [details, details, 3], dtype=np.uint8)
    image = Image.fromarray(coarse).resize((1200, 900), Image.Resampling.BICUBIC)
    jpeg, png = encode(image, "JPEG", quality=95), encode(image)
    difference = decode(jpeg, 3, image_size).astype(int) - decode(png, 3, image_size)
    assert np.abs(difference).mean() < 2


def test_pixels_are_taken_as_they_are():
    np.testing.assert_array_equal(decode(GRADIENT, 3), GRADIENT)
    np.testing.assert_array_equal(decode(GRADIENT[..., :1], 1), GRADIENT[..., :1])


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        b"not an image",
        encode(Image.fromarray(np.tile(GRADIENT, (40, 40, 1))), "JPEG")[:600],
        encode(Image.fromarray(np.tile(GRADIENT, (40, 40, 1))))[:300],
        encode(Image.fromarray(np.full([2, 2], 0.5, np.float32)), "TIFF"),
        encode(Image.fromarray(np.full([2, 2], 70000, np.int32)), "TIFF"),
        "no/such/file.png",
    ],
    ids=["empty", "text", "cut jpeg", "cut png", "float", "32 bits", "missing"],
)
def test_unreadable_says_why(encoded):
    with pytest.raises(UnreadableImage, match=r"\w+") as error:
        decode(encoded, 3)
    assert "\n" not in str(error.value)
