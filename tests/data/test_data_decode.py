"""Every kind of image file decodes to what a person sees, and nothing else opens."""

import io
import os
import socket
import threading

import numpy as np
import pytest
from PIL import Image

from dal_jax.data import jpeg
from dal_jax.data.decode import UnreadableImage, decode, decode_rows


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


# An orientation of 6 is to be turned 90 degrees clockwise; 9 means nothing.
@pytest.mark.parametrize(("orientation", "turns"), [(6, -1), (3, 2), (1, 0), (9, 0)])
@pytest.mark.parametrize("form", ["PNG", "JPEG"])
def test_exif_orientation_is_applied(form, orientation, turns):
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(np.repeat(GRADIENT, 16, axis=0))
    upright = decode(encode(image, form), 3)
    turned = decode(encode(image, form, exif=exif), 3)
    np.testing.assert_array_equal(turned, np.rot90(upright, k=turns))


def test_xmp_orientation_is_applied():
    image = Image.fromarray(GRADIENT)
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="3"/></x:xmpmeta>'
    turned = decode(encode(image, "JPEG", xmp=xmp), 3)
    upright = decode(encode(image, "JPEG"), 3)
    np.testing.assert_array_equal(turned, upright[::-1, ::-1])


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


def smooth(height, width, mode="RGB"):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, [5, 6, 3], dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    return image.convert(mode)


UPRIGHT = Image.Exif()
UPRIGHT[0x0112] = 1
UPRIGHT[0x010F] = "a camera"
JPEGS = {
    "colour": encode(smooth(71, 90), "JPEG"),
    "grey": encode(smooth(71, 90, "L"), "JPEG"),
    "ink": encode(smooth(71, 90, "CMYK"), "JPEG"),
    "444": encode(smooth(71, 90), "JPEG", subsampling=0, quality=95),
    "422": encode(smooth(71, 90), "JPEG", subsampling=1, quality=30),
    "progressive": encode(smooth(71, 90), "JPEG", progressive=True),
    "RGB": encode(smooth(71, 90), "JPEG", keep_rgb=True),
    "comment": encode(smooth(71, 90), "JPEG", comment="Exif", icc_profile=b"none"),
    "upright": encode(smooth(71, 90), "JPEG", exif=UPRIGHT),
    "narrow": encode(smooth(8, 90), "JPEG"),
}


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", JPEGS)
def test_jpegs_have_the_pixels_that_pillow_gives(monkeypatch, name, channels):
    for image_size in (None, 4, 7, 10, 40):
        ours = decode(JPEGS[name], channels, image_size)
        with monkeypatch.context() as patch:
            patch.setattr("dal_jax.data.decode.is_jpeg", lambda encoded: False)
            pillows = decode(JPEGS[name], channels, image_size)
        np.testing.assert_array_equal(ours, pillows, err_msg=str(image_size))


def test_plain_jpegs_do_not_need_pillow():
    plain = {n: jpeg.decode_plain(encoded) is not None for n, encoded in JPEGS.items()}
    assert plain == {name: name != "ink" for name in JPEGS}


def test_jpegs_are_written_where_they_belong():
    encoded = [JPEGS["colour"], JPEGS["ink"], JPEGS["grey"], JPEGS["narrow"]]
    for channels in (3, 1):
        out = np.zeros([4, 71, 90, channels], np.uint8)
        failures = list(decode_rows(out, encoded, channels, None))
        assert [(row, str(error)) for row, error in failures] == [(3, "90 x 8")]
        for row in range(3):
            np.testing.assert_array_equal(out[row], decode(encoded[row], channels))


def test_too_many_pixels_are_refused_as_pillow_does(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 71 * 90 // 2 - 1)
    with pytest.raises(UnreadableImage, match="exceeds limit of"):
        decode(JPEGS["colour"], 3)


@pytest.mark.parametrize(("image_size", "details"), [(32, 9), (100, 45)])
def test_large_jpeg_decoded_at_a_fraction_looks_the_same(image_size, details):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, [details, details, 3], dtype=np.uint8)
    image = Image.fromarray(coarse).resize((600, 450), Image.Resampling.BICUBIC)
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
        JPEGS["colour"][:600],
        JPEGS["colour"][:-40],
        b"\xff\xd8\xff",
        encode(Image.fromarray(np.tile(GRADIENT, (40, 40, 1))))[:300],
        encode(Image.fromarray(np.full([2, 2], 0.5, np.float32)), "TIFF"),
        encode(Image.fromarray(np.full([2, 2], 70000, np.int32)), "TIFF"),
        "no/such/file.png",
    ],
    ids=[
        "empty",
        "text",
        "cut header",
        "cut jpeg",
        "begun",
        "cut png",
        "float",
        "32 bits",
        "missing",
    ],
)
def test_unreadable_says_why(encoded):
    with pytest.raises(UnreadableImage, match=r"\w+") as error:
        decode(encoded, 3)
    assert "\n" not in str(error.value)


@pytest.fixture(params=["pipe", "socket", "device", "directory"])
def no_regular_file(request, tmp_path):
    path = tmp_path / "image.jpg"
    match request.param:
        case "pipe":
            os.mkfifo(path)
        case "device":
            path.symlink_to("/dev/null")
        case "directory":
            path.mkdir()
        case "socket":
            with socket.socket(socket.AF_UNIX) as listener:
                listener.bind(str(path))
                yield str(path)
                return
    yield str(path)


def test_only_regular_files_are_opened(no_regular_file):
    seen = []

    def attempt():
        try:
            decode(no_regular_file, 3)
        except UnreadableImage as error:
            seen.append(str(error))

    # A thread that is left behind, should it wait for ever.
    thread = threading.Thread(target=attempt, daemon=True)
    thread.start()
    thread.join(timeout=10)
    assert seen == ["not a regular file"]


OTHER_FORMATS = {
    "EPS": encode(smooth(8, 8), "EPS"),
    "PDF": b"%PDF-1.4\n",
    "ICO": encode(smooth(16, 16), "ICO"),
    "TGA": encode(smooth(8, 8), "TGA"),
    "PCX": encode(smooth(8, 8), "PCX"),
}


@pytest.mark.parametrize("name", OTHER_FORMATS)
def test_other_formats_are_not_opened_whatever_the_name(tmp_path, monkeypatch, name):
    # By whom Pillow has EPS drawn: must not be reached.
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: 1 / 0)
    path = tmp_path / "evil.jpg"
    path.write_bytes(OTHER_FORMATS[name])
    with pytest.raises(UnreadableImage, match="not an image in a known format"):
        decode(str(path), 3)


@pytest.mark.parametrize(
    "form", ["JPEG", "PNG", "BMP", "GIF", "JPEG2000", "PPM", "TIFF", "WEBP"]
)
def test_formats_that_the_documentation_names_open(form):
    image = smooth(8, 9)
    pixels = decode(encode(image, form), 3)
    assert np.abs(pixels.astype(int) - np.asarray(image)).mean() < 30
