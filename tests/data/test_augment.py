"""Each augmentation against a plain numpy version of it, and what is drawn."""

import colorsys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax.config import AugmentationConfig
from dal_jax.data import augment, color, erasing, geometry
from dal_jax.errors import InputError

EVERYTHING = AugmentationConfig(
    crop_padding=2,
    random_resized_crop=9,
    flip=True,
    color_jitter=(0.4, 0.4, 0.4, 0.2),
)
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def draw_images(batch=5, height=12, width=10, channels=3):
    generator = np.random.default_rng(0)
    return generator.integers(0, 256, (batch, height, width, channels), np.uint8)


def key_data(n, seed=0):
    return np.random.default_rng(seed).integers(0, 2**32, (n, 2), np.uint32)


def keys(n, seed=0):
    return jax.random.wrap_key_data(key_data(n, seed))


def draws(draw, n):
    """What is drawn for ``n`` keys, compiled once instead of an operation at a time."""
    return jax.jit(jax.vmap(draw))(keys(n))


def test_crop_is_a_cut_of_the_padded_image():
    images = draw_images()
    offsets = np.array([[0, 0], [1, 2], [6, 6], [3, 3], [5, 0]])
    cropped = jax.jit(geometry.crop_with_padding, static_argnums=2)(images, offsets, 3)
    assert cropped.dtype == np.uint8
    for image, (row, column), actual in zip(images, offsets, cropped, strict=True):
        padded = np.zeros((18, 16, 3), np.uint8)
        padded[3:15, 3:13] = image
        np.testing.assert_array_equal(
            actual, padded[row : row + 12, column : column + 10]
        )


def test_crop_offsets_are_uniform():
    offsets = np.asarray(draws(lambda key: geometry.draw_crop(key, 2), 10_000))
    counts = np.bincount(offsets[:, 0] * 5 + offsets[:, 1], minlength=25)
    assert counts.shape == (25,)
    # Chi-square with 24 degrees of freedom; 60 is passed once in 20,000.
    assert np.sum((counts - 400) ** 2 / 400) < 60


def test_flip_mirrors_the_marked_images():
    images = draw_images(batch=2)
    flipped = geometry.flip(images, np.array([True, False]))
    np.testing.assert_array_equal(flipped[0], images[0, :, ::-1])
    np.testing.assert_array_equal(flipped[1], images[1])


def test_half_of_the_images_are_flipped():
    images = np.tile(np.uint8([[[0], [255]]]), (10_000, 1, 1, 1))
    train = augment.make_preprocess(AugmentationConfig(flip=True), (0.0,), (1.0,)).train
    flipped = np.asarray(jax.jit(train)(keys(10_000), images))[:, 0, 0, 0]
    assert abs(flipped.mean() - 0.5) < 0.02


def resize_plainly(image, size_y, size_x):
    """Antialiased bilinear, one output pixel after another, as Pillow defines it."""
    output = np.zeros((size_y, size_x, image.shape[-1]))
    for y in range(size_y):
        for x in range(size_x):
            weights = []
            for out, side, size in (
                (y, image.shape[0], size_y),
                (x, image.shape[1], size_x),
            ):
                scale = side / size
                support = max(scale, 1.0)
                center = (out + 0.5) * scale
                triangle = [
                    max(0.0, 1 - abs((pixel + 0.5 - center) / support))
                    for pixel in range(side)
                ]
                weights.append(np.array(triangle) / sum(triangle))
            output[y, x] = np.einsum("y,x,yxc->c", *weights, image)
    return output


def test_resized_crop_shrinks_and_enlarges_the_box():
    images = draw_images() / np.float32(255)
    corners = [
        (0, 0, 12, 10),
        (2, 1, 3, 4),
        (5, 5, 7, 2),
        (11, 9, 1, 1),
        (1, 0, 10, 10),
    ]
    boxes = geometry.Box(*np.array(corners).T)
    resized = jax.jit(geometry.resized_crop, static_argnums=2)(images, boxes, 5)
    for image, (top, left, height, width), actual in zip(
        images, corners, resized, strict=True
    ):
        cut = image[top : top + height, left : left + width]
        np.testing.assert_allclose(actual, resize_plainly(cut, 5, 5), atol=2e-6)


def test_evaluation_is_a_resize_and_the_middle_of_it():
    images = draw_images(batch=2, height=12, width=20) / np.float32(255)
    # 7 * 256 / 224 = 8: 12 x 20 becomes 8 x 13, of which rows 0 to 7 are cut (half
    # a pixel rounds to even) and columns 3 to 10.
    actual = jax.jit(geometry.resize_and_center_crop, static_argnums=1)(images, 7)
    for image, cropped in zip(images, actual, strict=True):
        expected = resize_plainly(image, 8, 13)[0:7, 3:10]
        np.testing.assert_allclose(cropped, expected, atol=2e-6)


def test_boxes_fit_and_cover_the_ranges():
    height, width = 40, 30
    boxes = draws(lambda key: geometry.draw_box(key, height, width), 5000)
    top, left, box_height, box_width = (np.asarray(side) for side in boxes)
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (box_height >= 1).all()
    assert (box_width >= 1).all()
    assert (top + box_height <= height).all()
    assert (left + box_width <= width).all()
    area = box_height * box_width / (height * width)
    ratio = box_width / box_height
    # Rounding to whole pixels moves both a little at the smallest boxes.
    assert 0.06 < area.min() < 0.1
    assert 0.9 < area.max() <= 1.0
    assert 0.65 < ratio.min() < 0.8
    assert 1.25 < ratio.max() < 1.5
    # The same draws by the definition, one attempt after another.
    expected = area_by_rejection(height, width, 5000)
    assert abs(area.mean() - expected.mean()) < 0.02
    assert abs(np.log(ratio).mean() - expected_log_ratio(height, width)) < 0.02
    # Where a box has room to move, its place is uniform.
    room = height - box_height
    place = top[room >= 10] / room[room >= 10]
    assert abs(place.mean() - 0.5) < 0.02


def rejection(height, width, n):
    generator = np.random.default_rng(1)
    for _ in range(n):
        while True:
            area = generator.uniform(0.08, 1) * height * width
            ratio = np.exp(generator.uniform(np.log(3 / 4), np.log(4 / 3)))
            w, h = round(np.sqrt(area * ratio)), round(np.sqrt(area / ratio))
            if 0 < w <= width and 0 < h <= height:
                break
        yield h, w


def area_by_rejection(height, width, n):
    return np.array([h * w for h, w in rejection(height, width, n)]) / height / width


def expected_log_ratio(height, width):
    return np.mean([np.log(w / h) for h, w in rejection(height, width, 5000)])


def test_box_falls_back_to_the_middle():
    # Nothing with a ratio of 3/4 or more and 90 % of the area fits in 40 x 10.
    box = draws(lambda key: geometry.draw_box(key, 40, 10, scale=(0.9, 1.0)), 1)
    assert [int(side[0]) for side in box] == [13, 0, 13, 10]


def jitter_plainly(image, brightness, contrast, saturation, hue):
    def gray(image):
        return image @ np.array([0.2989, 0.587, 0.114])

    image = np.clip(image * brightness, 0, 1)
    image = np.clip(contrast * image + (1 - contrast) * gray(image).mean(), 0, 1)
    image = np.clip(
        saturation * image + (1 - saturation) * gray(image)[..., None], 0, 1
    )
    turned = np.zeros_like(image)
    for position in np.ndindex(image.shape[:2]):
        h, s, v = colorsys.rgb_to_hsv(*image[position])
        turned[position] = colorsys.hsv_to_rgb((h + hue) % 1, s, v)
    return turned


jitter = jax.jit(color.jitter)  # one program for all factors


@pytest.mark.parametrize(
    "factors",
    [
        (1.0, 1.0, 1.0, 0.0),
        (1.4, 1.0, 1.0, 0.0),
        (1.0, 0.6, 1.0, 0.0),
        (1.0, 1.0, 1.4, 0.0),
        (1.0, 1.0, 1.0, 0.2),
        (0.7, 1.3, 0.0, -0.5),
    ],
)
def test_jitter_of_colour_images(factors):
    image = draw_images(batch=1)[0] / 255.0
    actual = jitter(image.astype(np.float32), color.Factors(*factors))
    np.testing.assert_allclose(actual, jitter_plainly(image, *factors), atol=5e-6)


def test_jitter_of_grey_images():
    image = draw_images(batch=1, channels=1)[0] / np.float32(255)
    actual = jitter(image, color.Factors(1.2, 0.5, 0.1, 0.3))
    brighter = np.clip(1.2 * image, 0, 1)
    expected = 0.5 * brighter + 0.5 * brighter.mean()
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_factors_are_uniform_in_their_ranges():
    factors = draws(lambda key: color.draw(key, (0.4, 1.5, 0.2, 0.1)), 5000)
    ranges = ((0.6, 1.4), (0.0, 2.5), (0.8, 1.2), (-0.1, 0.1))
    for values, (low, high) in zip(factors, ranges, strict=True):
        unit = (np.asarray(values) - low) / (high - low)
        assert -1e-6 <= unit.min() < 0.01
        assert 0.99 < unit.max() <= 1 + 1e-6
        assert abs(unit.mean() - 0.5) < 0.02
    assert abs(np.corrcoef(np.stack(factors))[0, 1]) < 0.05


def test_normalisation_of_evaluation_images():
    images = draw_images()
    preprocess = augment.make_preprocess(AugmentationConfig(), MEAN, STD)
    expected = (images / 255.0 - MEAN) / STD
    for actual in jax.jit(
        lambda keys: (preprocess.evaluate(images), preprocess.train(keys, images))
    )(keys(5)):
        np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.parametrize(
    # The size decides the program, and the large one takes seconds to compile.
    ("config", "size"),
    [(EVERYTHING, 6), (AugmentationConfig(crop_padding=2, flip=True), 4)],
)
def test_result_does_not_depend_on_the_batch(config, size):
    images = draw_images(batch=6)
    train = jax.jit(augment.make_preprocess(config, MEAN, STD).train)
    whole = train(keys(6), images)
    assert np.isfinite(whole).all()
    some = np.array([4, 0, 5])
    part = train(
        jax.random.wrap_key_data(
            np.concatenate([key_data(6)[some], key_data(size - 3, seed=2)])
        ),
        np.concatenate([images[some], images[: size - 3]]),
    )
    np.testing.assert_allclose(part[:3], whole[some], atol=1e-5)
    again = train(keys(6, seed=1), images)
    assert np.abs(np.asarray(again) - np.asarray(whole)).max() > 0.1


def test_every_augmentation_has_draws_of_its_own():
    # The flip must not be decided by the same bits as the crop.
    config = AugmentationConfig(crop_padding=1, flip=True)
    image = np.zeros((3, 3, 1), np.uint8)
    image[1, 0] = 255
    images = np.tile(image, (4000, 1, 1, 1))
    train = augment.make_preprocess(config, (0.0,), (1.0,)).train
    cropped = np.asarray(jax.jit(train)(keys(4000), images))[..., 0]
    rows, columns = cropped.max(axis=2).argmax(1), cropped.max(axis=1).argmax(1)
    visible = cropped.max(axis=(1, 2)) > 0
    # A crop to the left loses the pixel: two of three remain.
    assert abs(visible.mean() - 2 / 3) < 0.03
    assert abs(np.corrcoef(rows[visible], columns[visible])[0, 1]) < 0.06


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_shapes_and_dtypes(dtype):
    preprocess = augment.make_preprocess(EVERYTHING, MEAN, STD, dtype)
    images = draw_images()
    for output in (
        jax.eval_shape(preprocess.train, keys(5), images),
        jax.eval_shape(preprocess.evaluate, images),
    ):
        assert output.shape == (5, 9, 9, 3)
        assert output.dtype == dtype


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"crop_padding": -1}, "crop_padding=-1"),
        ({"random_resized_crop": 0}, "random_resized_crop=0"),
        ({"color_jitter": (0.1, 0.1, 0.1, 0.6)}, "hue"),
        ({"color_jitter": (-0.1,)}, "color_jitter"),
        ({"color_jitter": (0.1,) * 5}, "color_jitter"),
    ],
)
def test_wrong_options_are_one_line(options, word):
    with pytest.raises(InputError, match=word) as error:
        augment.make_preprocess(AugmentationConfig(**options), MEAN, STD)
    assert "\n" not in str(error.value)


def test_mean_of_the_wrong_length():
    preprocess = augment.make_preprocess(AugmentationConfig(), (0.5, 0.5), (1.0,))
    with pytest.raises(InputError, match=r"augmentation\.mean has 2 numbers"):
        preprocess.evaluate(draw_images())


def test_random_crops_are_uniform_and_evaluation_takes_the_middle():
    images = draw_images(batch=400, height=5, width=4)
    config = AugmentationConfig(random_crop=3)
    preprocess = augment.make_preprocess(config, (0.0,), (1.0,))
    cut, middle = jax.jit(
        lambda keys: (preprocess.train(keys, images), preprocess.evaluate(images))
    )(keys(400))
    cut, middle = np.asarray(cut) * 255, np.asarray(middle) * 255
    offsets = set()
    for image, found in zip(np.asarray(images, np.float32), cut, strict=True):
        places = [
            (top, left)
            for top in range(3)
            for left in range(2)
            if np.allclose(image[top : top + 3, left : left + 3], found, atol=1e-3)
        ]
        offsets.update(places)
        assert places
    assert len(offsets) == 6
    np.testing.assert_allclose(middle, images[:, 1:4, 0:3], atol=1e-3)


def test_erased_rectangles_are_of_the_published_sizes():
    count, side = 4000, 40
    boxes = draws(lambda key: erasing.draw_erased(key, (side, side), 0.5), count)
    erased = np.asarray(boxes.height) > 0
    assert np.mean(erased) == pytest.approx(0.5, abs=0.03)
    height, width = (np.asarray(x)[erased] for x in (boxes.height, boxes.width))
    share = height * width / side**2
    # Uniform in (.02, .33), but for sides rounded to pixels.
    assert share.min() < 0.025
    assert share.max() == pytest.approx(0.33, abs=0.015)
    assert share.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    ratio = np.log(height / width)
    assert abs(ratio).max() == pytest.approx(np.log(3.3), abs=0.15)
    assert ratio.mean() == pytest.approx(0, abs=0.06)
    for start, extent in ((boxes.top, height), (boxes.left, width)):
        start = np.asarray(start)[erased]
        assert start.min() == 0
        assert (start + extent).max() == side


def test_erasing_leaves_the_rest_as_it_was():
    images = draw_images(batch=20, height=12, width=10)

    @jax.jit
    def of_both(keys):
        configs = (
            AugmentationConfig(flip=True, crop_padding=2, random_erasing=probability)
            for probability in (0.0, 1.0)
        )
        return [
            augment.make_preprocess(config, (0.3,), (0.5,)).train(keys, images)
            for config in configs
        ]

    plain, erasing = map(np.asarray, of_both(keys(20)))
    changed = (plain != erasing).any(axis=-1)
    assert changed.any(axis=(1, 2)).all()
    assert (erasing[changed] == 0).all()  # the mean, where pixels are normalised
    assert 0.02 < changed.mean() < 0.33


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"random_crop": 0}, "random_crop"),
        ({"random_crop": 4, "random_resized_crop": 4}, "one of them"),
        ({"random_erasing": 1.5}, "probability"),
    ],
)
def test_crops_and_erasing_out_of_range(options, word):
    with pytest.raises(InputError, match=word):
        augment.make_preprocess(AugmentationConfig(**options), (0.0,), (1.0,))


def test_crops_larger_than_the_image():
    config = AugmentationConfig(random_crop=11)
    preprocess = augment.make_preprocess(config, (0.0,), (1.0,))
    with pytest.raises(InputError, match="random_crop=11 of images of 12x10"):
        preprocess.evaluate(draw_images())
