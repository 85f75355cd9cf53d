"""Instance-dependent noise against its definition, one example at a time."""

import numpy as np
import pytest
from scipy import stats

from dal_jax import noise, seeds
from dal_jax.errors import InputError
from dal_jax.noise import instance


def photographs(num_examples, num_classes, shape=(4, 4, 3), seed=0):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, num_classes, num_examples)
    return rng.integers(0, 256, (num_examples, *shape), np.uint8), labels


def scaled(images, pixel_scaling):
    pixels = images.astype(np.float64)
    if pixel_scaling == "unit":
        pixels = pixels / 255
    if pixel_scaling == "standardized":
        pixels = (pixels - pixels.mean((0, 1, 2))) / pixels.std((0, 1, 2))
    return pixels.reshape(len(images), -1)


def written_out(images, labels, num_classes, rate, seed, pixel_scaling):
    """The definition, example by example, from the same random numbers."""
    pixels = scaled(images, pixel_scaling)
    quantiles = seeds.numpy_rng(seed, "noise/rate").random(len(labels))
    draws = seeds.numpy_rng(seed, "noise/instance").random(len(labels))
    flip_rates = stats.truncnorm.ppf(
        quantiles, -rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1
    )
    noisy = []
    for n, label in enumerate(labels):
        rng = seeds.numpy_rng(seed, f"noise/projection/{label}")
        scores = pixels[n] @ rng.standard_normal((pixels.shape[1], num_classes))
        scores[label] = -np.inf
        probabilities = np.exp(scores - scores.max())
        probabilities *= flip_rates[n] / probabilities.sum()
        probabilities[label] += 1 - flip_rates[n]
        choices = np.flatnonzero(np.cumsum(probabilities) > draws[n])
        noisy.append(choices[0])
    return np.array(noisy)


@pytest.mark.parametrize("pixel_scaling", ["raw", "unit", "standardized"])
def test_equals_the_definition_written_out(pixel_scaling, monkeypatch):
    images, labels = photographs(400, 6)
    expected = written_out(images, labels, 6, 0.4, 3, pixel_scaling)
    drawn = noise.instance_dependent(
        images, labels, 6, 0.4, 3, pixel_scaling=pixel_scaling
    )
    np.testing.assert_array_equal(drawn, expected)
    monkeypatch.setattr(instance, "_CHUNK_PIXELS", 7 * 48)
    chunked = noise.instance_dependent(
        images, labels, 6, 0.4, 3, pixel_scaling=pixel_scaling
    )
    np.testing.assert_array_equal(chunked, expected)


def test_the_softmax_of_one_image_is_what_its_wrong_labels_follow():
    """Many copies of one image: the wrong labels have the frequencies of a softmax."""
    image = photographs(1, 2, shape=(3, 3, 1))[0]
    copies = np.repeat(image, 20_000, axis=0)
    noisy = noise.instance_dependent(
        copies, np.full(20_000, 1), 5, 0.4, 0, pixel_scaling="unit"
    )
    projection = seeds.numpy_rng(0, "noise/projection/1").standard_normal((9, 5))
    weights = np.exp(scaled(image, "unit")[0] @ projection)
    weights[1] = 0
    wrong = np.bincount(noisy[noisy != 1], minlength=5)
    expected = weights / weights.sum() * wrong.sum()
    others = [0, 2, 3, 4]
    assert stats.chisquare(wrong[others], expected[others]).pvalue > 1e-7


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.95, 1.0])
def test_wrong_labels_come_at_the_mean_of_the_truncated_normal(rate):
    images, labels = photographs(20_000, 10, shape=(2, 2, 1))
    noisy = noise.instance_dependent(images, labels, 10, rate, 1)
    mean = stats.truncnorm.mean(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
    wrong = int((noisy != labels).sum())
    assert stats.binomtest(wrong, len(labels), mean).pvalue > 1e-7


@pytest.mark.parametrize("mean", [0.0, 0.05, 0.4, 1.0])
def test_flip_rates_are_quantiles_of_the_truncated_normal(mean):
    quantiles = np.linspace(0, 1, 1001)[:-1]
    expected = stats.truncnorm.ppf(
        quantiles, -mean / 0.1, (1 - mean) / 0.1, loc=mean, scale=0.1
    )
    actual = instance.truncated_normal(mean, quantiles)
    np.testing.assert_allclose(actual, expected, atol=1e-9)
    assert instance.truncated_normal(mean, np.array([np.nextafter(1, 0)]))[0] <= 1


def test_classes_have_matrices_of_their_own():
    image = photographs(1, 2)[0]
    copies = np.repeat(image, 2000, axis=0)
    targets = set()
    for label in range(8):
        labels = np.full(2000, label)
        noisy = noise.instance_dependent(
            copies, labels, 10, 0.5, 0, pixel_scaling="raw"
        )
        shares = np.bincount(noisy[noisy != label], minlength=10)
        assert shares.max() > 0.99 * shares.sum()
        targets.add(int(shares.argmax()))
    assert len(targets) > 2


def test_what_images_share_concentrates_the_wrong_labels():
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(5), 2000)
    # As in photographs, most of an image is its overall brightness.
    brightness = rng.integers(0, 200, (len(labels), 1, 1, 1))
    images = (brightness + rng.integers(0, 56, (len(labels), 8, 8, 1))).astype(np.uint8)

    def concentration(pixel_scaling):
        noisy = noise.instance_dependent(
            images, labels, 5, 0.4, 0, pixel_scaling=pixel_scaling
        )
        counts = noise.record.count_transitions(noisy, labels, 5)
        np.fill_diagonal(counts, 0)
        return np.mean(counts.max(axis=1) / counts.sum(axis=1))

    assert concentration("raw") > 0.9
    assert concentration("standardized") < concentration("raw") - 0.1


@pytest.mark.parametrize("pixel_scaling", ["raw", "unit", "standardized"])
def test_order_and_container_do_not_matter(pixel_scaling):
    images, labels = photographs(300, 4)
    order = np.random.default_rng(0).permutation(300)

    class Source:
        shape = images.shape[1:]

        def __len__(self):
            return 300

        def __getitem__(self, position):
            return images[order[position]]

    whole = noise.instance_dependent(
        images, labels, 4, 0.4, 0, pixel_scaling=pixel_scaling
    )
    shuffled = noise.instance_dependent(
        Source(), labels[order], 4, 0.4, 0, pixel_scaling=pixel_scaling, index=order
    )
    np.testing.assert_array_equal(shuffled, whole[order])


def test_a_constant_channel_does_no_harm():
    images, labels = photographs(200, 3)
    images[..., 1] = 7
    noisy = noise.instance_dependent(images, labels, 3, 0.4, 0)
    assert 0 < (noisy != labels).mean() < 1


@pytest.mark.parametrize(
    ("images", "scaling", "message"),
    [
        (np.full((4, 2), "a"), "raw", "other numbers.*dtype <U1"),
        (np.zeros(4), "raw", r"other numbers, got shape \(\)"),
        (np.zeros((4, 2)), "unit", r"unit is for uint8 images, got shape \(2,\) and"),
        (np.zeros((3, 2, 2, 1), np.uint8), "raw", "3 images and 4 labels"),
        (np.zeros((4, 2, 2, 1), np.uint8), "unit8", "unknown pixel scaling 'unit8'"),
    ],
)
def test_bad_input_is_refused(images, scaling, message):
    with pytest.raises(InputError, match=message):
        noise.instance_dependent(images, np.arange(4), 4, 0.4, 0, pixel_scaling=scaling)


def test_of_features_the_scale_of_each_is_taken_out():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 5, 2000)
    features = rng.normal(size=(2000, 6)).astype(np.float32)
    scaled = features * np.array([1, 10, 0.1, 5, 2, 7], np.float32) + 1000
    noisy, same = (
        noise.instance_dependent(x, labels, 5, rate=0.4, seed=0)
        for x in (features, scaled)
    )
    assert abs((noisy != labels).mean() - 0.4) < 0.03
    assert (noisy != same).mean() < 0.01  # what float32 rounds
    raw, of_scaled = (
        noise.instance_dependent(x, labels, 5, rate=0.4, seed=0, pixel_scaling="raw")
        for x in (features, scaled)
    )
    assert (raw != of_scaled).mean() > 0.1
