"""What is compiled: types, donated buffers, what is handed over, programs of rows."""

import collections
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dal_jax import losses, models, optimizers, recipe
from dal_jax.config import AugmentationConfig, DatasetConfig, ModelConfig, TrainConfig
from dal_jax.data import augment
from dal_jax.models.resnet import BasicBlock, ResNet
from dal_jax.training import experiment as experiments
from dal_jax.training import feed, parallel, train_and_evaluate
from dal_jax.training import step as steps
from dal_jax.training.plan import make_plan
from dal_jax.training.state import TrainMetrics

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")


def make_config(**fields):
    config = TrainConfig(
        dataset=DatasetConfig(train_size=96, test_size=40),
        model=ModelConfig("mlp", hidden=(16,)),
        augmentation=AugmentationConfig(flip=True, crop_padding=1),
        num_epochs=2,
        batch_size=16,
        eval_batch_size=24,
    )
    for name, value in fields.items():
        setattr(config, name, value)
    return config


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            for inner in value if isinstance(value, list | tuple) else (value,):
                inner = getattr(inner, "jaxpr", inner)
                if hasattr(inner, "eqns"):
                    yield from equations(inner)


def cnn(**common):
    return models.create("cnn", **common)


def resnet(**common):
    """A ResNet-18 of one block as it is and one with a shortcut of its own."""
    return ResNet(BasicBlock, (1, 1), small_images=True, **common)


@functools.cache
def trace_step(network, precision):
    """Returns the step's equations and its state, old and new, as shapes."""
    config, shape, dtype = make_config(), (8, 8, 3), jnp.dtype(precision)
    model = models.functionalize(
        lambda rngs: network(image_shape=shape, num_classes=10, dtype=dtype, rngs=rngs)
    )
    optimizer = optimizers.create("sgd", lambda step: 0.05)
    loss = losses.make_stateful("dal", total_steps=10, num_classes=10, num_examples=16)
    preprocess = augment.make_preprocess(config.augmentation, (0.5,), (0.2,), dtype)
    step = steps.make_train_step(model, preprocess, optimizer, loss, jax.random.key(0))
    init = steps.make_init(model, optimizer, loss)
    state = jax.eval_shape(init, jax.random.key(0))
    batch = {
        name: jax.ShapeDtypeStruct((16, *rest), dtype)
        for name, rest, dtype in (
            ("inputs", shape, jnp.uint8),
            ("labels", (), jnp.int32),
            ("position", (), jnp.int32),
            ("mask", (), bool),
        )
    }
    jaxpr, result = jax.make_jaxpr(step, return_shape=True)(state, batch)
    return list(equations(jaxpr.jaxpr)), state, result


def operand_types(found, name):
    return collections.Counter(
        tuple(v.aval.dtype.name for v in e.invars)
        for e in found
        if e.primitive.name == name
    )


@pytest.mark.parametrize("network", [cnn, resnet])
def test_bfloat16_is_for_convolutions_and_matrix_products(network):
    found, _, _ = trace_step(network, "bfloat16")
    convolutions = operand_types(found, "conv_general_dilated")
    assert set(convolutions) == {("bfloat16", "bfloat16")}
    products = operand_types(found, "dot_general")
    # The logits' gradient alone, float32 as they are, meets the last layer as such.
    assert products.pop(("float32", "bfloat16")) == 2
    assert set(products) == {("bfloat16", "bfloat16")}
    full, _, _ = trace_step(network, "float32")
    both = operand_types(full, "conv_general_dilated")
    assert set(both) == {("float32", "float32")}
    assert both.total() == convolutions.total()


@pytest.mark.parametrize("network", [cnn, resnet])
def test_parameters_statistics_and_the_loss_stay_float32(network):
    found, state, (new_state, metrics) = trace_step(network, "bfloat16")
    for tree in (state, new_state):
        kept = (tree.params, tree.model_state, tree.opt_state)
        floats = [x.dtype for x in jax.tree.leaves(kept) if x.dtype != jnp.int32]
        assert len(floats) > 4
        assert set(floats) == {jnp.dtype(jnp.float32)}
    assert metrics.loss_sum.dtype == jnp.float32
    # Of the loss's softmax, and of batch norm's standard deviations.
    for primitive in ("exp", "log", "rsqrt"):
        assert set(operand_types(found, primitive)) <= {("float32",)}
    assert operand_types(found, "exp").total() > 0


def build(config):
    prepared = recipe.prepare(config)
    experiment = experiments.build(make_plan(**recipe.ingredients(config, prepared)))
    zero = experiment.parallel.place_data(TrainMetrics.zero())
    return experiment, (experiment.init(), zero)


@pytest.mark.parametrize("way", ["fori_loop", "scan"])
@pytest.mark.parametrize("mode", ["jit", "pmap"])
def test_a_call_takes_the_state_s_buffers_and_hands_over_nothing_but_numbers(
    mode, way, monkeypatch
):
    """Images are gathered, augmented and normalised inside the program."""
    monkeypatch.setattr(feed, "scans", lambda: way == "scan")
    experiment, carry = build(make_config(parallel=mode))
    order = experiment.order(0)
    trained = experiment.run_train(experiment.context, carry, order, 0, 6)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(carry[0]))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(trained))
    jax.block_until_ready(trained)
    moved = []
    put = jax.device_put
    monkeypatch.setattr(
        jax, "device_put", lambda *a, **k: moved.append(a) or put(*a, **k)
    )
    experiment.run_train(experiment.context, trained, order, 0, 6)
    assert moved == []


def test_runs_that_differ_in_their_seeds_have_one_program(monkeypatch):
    """A constant that came from the seed would make every seed compile its own."""
    programs = []
    compile_function = parallel.ShardedJit.compile

    def lowered(self, function, **options):
        compiled = compile_function(self, function, **options)

        def call(*arguments):
            programs.append(compiled.lower(*arguments).as_text())
            return arguments[0]

        return call

    monkeypatch.setattr(parallel.ShardedJit, "compile", lowered)
    for seed in (0, 1):
        experiment, carry = build(make_config(seed=seed))
        experiment.run_train(experiment.context, carry, experiment.order(0), 0, 1)
    assert len(programs) == 2
    assert programs[0] == programs[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Returns the directory of a finished run, the same for all who ask."""

    @functools.cache
    def trained(mode, precision):
        workdir = tmp_path_factory.mktemp("run")
        config = make_config(parallel=mode, precision=precision)
        train_and_evaluate(config, workdir)
        return workdir

    return trained


def entries(workdir):
    lines = (workdir / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("mode", ["jit", pytest.param("pmap", marks=pytest.mark.slow)])
def test_programs_of_fixed_length_train_the_same(mode, run, monkeypatch, tmp_path):
    """What runs on GPU and TPU: lax.scan over rows, here 4, and what is left."""
    of_loops = entries(run(mode, "float32"))
    monkeypatch.setattr(feed, "scans", lambda: True)
    monkeypatch.setattr(feed, "_MOST_ROWS", 4)
    monkeypatch.setattr(feed, "_FEWEST_ROWS", 4)
    train_and_evaluate(make_config(parallel=mode), tmp_path)
    for looped, scanned in zip(of_loops, entries(tmp_path), strict=True):
        assert scanned["step"] == looped["step"]
        assert scanned["train_loss"] == pytest.approx(looped["train_loss"], rel=1e-5)
        assert scanned["test_accuracy"] == pytest.approx(
            looped["test_accuracy"], abs=0.03
        )
        assert scanned["memorized"] == pytest.approx(looped["memorized"], abs=0.03)


def test_scans_are_scans(monkeypatch):
    """A while loop whose end is a number on the device waits for the host on a GPU."""
    # A program that is traced as part of another has none.
    monkeypatch.setattr(parallel, "for_every_core", lambda platform: None)
    for way, expected in ((True, {"scan"}), (False, {"while"})):
        monkeypatch.setattr(feed, "scans", lambda way=way: way)
        experiment, carry = build(make_config())
        order = experiment.order(0)
        jaxpr = jax.make_jaxpr(
            lambda carry, of=experiment, order=order: of.run_train(
                of.context, carry, order, 0, 6
            )
        )(carry)
        # The loop over rows is the one that carries the whole state.
        loops = {
            equation.primitive.name
            for equation in equations(jaxpr.jaxpr)
            if equation.primitive.name in ("scan", "while")
            and len(equation.outvars) >= len(jax.tree.leaves(carry))
        }
        assert loops == expected


def test_a_profile_is_written_by_option(tmp_path):
    train_and_evaluate(make_config(), tmp_path, profile=True)
    traces = list((tmp_path / "profile").rglob("*.xplane.pb"))
    assert len(traces) == 1
    assert traces[0].stat().st_size > 1000


def test_no_profile_is_written_otherwise(run):
    assert not (run("jit", "float32") / "profile").exists()


def test_bfloat16_trains(run):
    full, half = (
        entries(run("jit", precision))[-1]["train_loss"]
        for precision in ("float32", "bfloat16")
    )
    assert np.isfinite(half)
    assert half != full
    assert half == pytest.approx(full, rel=0.05)


def test_the_initialisation_has_the_bits_of_an_optimized_program():
    """Though it is compiled with few optimizations, to start sooner."""
    model = models.functionalize(
        lambda rngs: models.create(
            "linear", image_shape=(8, 8, 1), num_classes=10, rngs=rngs
        )
    )
    found = parallel.make_parallel("jit", 8).init_state(model.init, jax.random.key(3))
    options = {
        "xla_backend_optimization_level": 3,
        "xla_llvm_disable_expensive_passes": False,
    }
    optimized = jax.jit(model.init, compiler_options=options)(jax.random.key(3))
    jax.tree.map(np.testing.assert_array_equal, found, optimized)
