"""Every configuration file: what it says of itself, and what it trains."""

import ast
import importlib.util
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from dal_jax import recipe
from dal_jax.config import TrainConfig
from dal_jax.training import train_and_evaluate

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "configs").glob("*.py"))
# q and the weight of each epoch, as the released code computes them.
RELEASED = Path(__file__).parent / "golden" / "schedule.json"
CIFAR_STEPS = 391


def load(name: str) -> TrainConfig:
    path = ROOT / "configs" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"config_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_config_is_one_that_can_run(path):
    config = load(path.stem)
    assert isinstance(config, TrainConfig)
    recipe.check(config)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_released_recipes_alone_hold_the_loss_within_an_epoch(path):
    released = ("cifar10", "cifar100", "webvision_mini")
    config = load(path.stem)
    loss = recipe.make_loss(config, steps_per_epoch=5, num_classes=10, num_examples=100)
    within = [float(loss.coefficients(step)["q"]) for step in (5, 9)]
    assert (within[0] == within[1]) == (path.stem in released)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_docstring_has_the_command(path):
    text = ast.get_docstring(ast.parse(path.read_text()))
    assert text is not None
    assert f"python train.py --config=configs/{path.name}" in text


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_recipe_is_the_released_one(name):
    config = load(name)
    optimizer, augmentation = config.optimizer, config.augmentation
    assert (config.model.name, config.num_epochs, config.batch_size) == (
        "resnet18",
        150,
        128,
    )
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, False)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (1e-4, None)
    assert (augmentation.crop_padding, augmentation.flip) == (4, True)


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_learning_rate_is_a_cosine_once_an_epoch(name):
    config = load(name)
    rate = recipe.make_optimizer(config.optimizer, config.num_epochs, CIFAR_STEPS)[1]
    epochs = np.array([0, 1, 74, 75, 149])
    expected = 0.01 * (1 + np.cos(np.pi * epochs / 150)) / 2
    rates = jax.jit(rate)
    for step in (0, 1, CIFAR_STEPS - 1):
        values = rates(epochs * CIFAR_STEPS + step)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-8)


def test_webvision_recipe_is_the_released_one():
    config = load("webvision_mini")
    optimizer, augmentation = config.optimizer, config.augmentation
    assert config.dataset.max_classes == 50
    assert config.noise.kind == "none"
    assert (config.model.name, config.num_epochs, config.batch_size) == (
        "resnet50",
        250,
        512,
    )
    assert (optimizer.momentum, optimizer.nesterov) == (0.9, True)
    assert (optimizer.weight_decay, optimizer.clip_norm) == (3e-5, 5.0)
    assert augmentation.random_resized_crop == 224
    assert augmentation.color_jitter == (0.4, 0.4, 0.4, 0.2)
    rate = recipe.make_optimizer(optimizer, config.num_epochs, 130)[1]
    for epoch in (0, 1, 249):
        for step in (0, 129):
            value = float(rate(epoch * 130 + step))
            assert value == pytest.approx(0.4 * 0.97**epoch, rel=1e-4)


def test_clothing1m_decays_where_the_published_recipe_does():
    config = load("clothing1m")
    assert config.model.weights is not None
    assert (config.dataset.balance, config.batch_size) == ("classes", 64)
    steps = 1_000_000 // 64
    rate = recipe.make_optimizer(config.optimizer, config.num_epochs, steps)[1]
    # After 7 of 15 parts of the run.
    decayed = round(7 / 15 * config.num_epochs * steps)
    assert float(rate(0)) == pytest.approx(0.002)
    assert float(rate(decayed - 1)) == pytest.approx(0.002)
    assert float(rate(decayed)) == pytest.approx(0.0002)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("cifar10", "qs=0.6,qe=1.5,epochs=150"),
        ("cifar100", "qs=0.6,qe=1.5,epochs=150"),
        ("webvision_mini", "qs=0.4,qe=1.5,epochs=250"),
    ],
)
def test_q_is_that_of_the_released_code_in_every_epoch(name, key):
    config, released = load(name), json.loads(RELEASED.read_text())[key]
    loss = recipe.make_loss(config, steps_per_epoch=7, num_classes=10, num_examples=100)
    coefficients = jax.jit(loss.coefficients)
    for place in (0, 6):
        values = coefficients(7 * np.arange(config.num_epochs) + place)
        np.testing.assert_allclose(values["q"], released["q"], atol=1e-6)
        np.testing.assert_allclose(
            values["bootstrap_weight"], released["lam"], atol=2e-6
        )


@pytest.mark.parametrize("name", ["cifar10", "cifar100", "cifar10_small"])
def test_cifar_noise_is_symmetric_at_40_percent_unless_said(name):
    noise = load(name).noise
    assert (noise.kind, noise.rate, noise.path) == ("symmetric", 0.4, None)


def write_images(directory: Path, per_class: int, seed: int) -> None:
    from PIL import Image

    generator = np.random.default_rng(seed)
    for label, name in enumerate(("dark", "bright")):
        (directory / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = generator.integers(0, 100, (20, 24, 3)) + 150 * label
            Image.fromarray(pixels.astype(np.uint8)).save(directory / name / f"{i}.png")


def test_folder_config_learns_from_a_folder(tmp_path):
    photos = tmp_path / "photos"
    write_images(photos / "train", 40, seed=0)
    write_images(photos / "test", 10, seed=1)
    config = load("folder")
    config.dataset.data_dir = str(photos)
    config.dataset.cache_dir = ""
    config.dataset.image_size = 16
    config.model.name, config.model.hidden = "mlp", (16,)
    config.num_epochs, config.batch_size = 4, 24
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["test_accuracy_last"] > 0.9
    assert summary["validation_accuracy_last"] > 0.7
    assert summary["realised_noise_rate"] is None


def test_list_configs_read_lists_of_few_classes(tmp_path):
    photos = tmp_path / "photos"
    write_images(photos, 12, seed=0)
    rows = [f"dark/{i}.png,0\nbright/{i}.png,{1 + i % 2}" for i in range(12)]
    (tmp_path / "all.csv").write_text("path,label\n" + "\n".join(rows) + "\n")
    config = load("webvision_mini")
    config.dataset.data_dir = str(photos)
    config.dataset.cache_dir = ""
    config.dataset.train_path = str(tmp_path / "all.csv")
    config.dataset.test_path = str(tmp_path / "all.csv")
    config.dataset.max_classes = 2
    config.dataset.image_size = 18
    config.dataset.workers = 0
    config.augmentation.random_resized_crop = 16
    config.model.name, config.model.hidden = "mlp", (16,)
    config.num_epochs, config.batch_size = 1, 6
    summary = train_and_evaluate(config, tmp_path / "run")
    assert summary["steps"] == 3  # 12 dark ones and the 6 bright ones of class 1
    # The same 18 examples are evaluated.
    correct = 18 * summary["test_accuracy_last"]
    assert correct == pytest.approx(round(correct), abs=1e-4)
