"""A step whose classes are shared: each image is computed once, no logits travel."""

import json

CODE = """
import functools, json, math, re
import jax, jax.numpy as jnp, numpy as np, optax
from dal_jax import losses, models
from dal_jax.training import dynamics, experiment, programs
from dal_jax.training.parallel import ShardedJit
from dal_jax.training.plan import make_plan
from dal_jax.training.state import TrainMetrics

BATCH, CLASSES = 64, 2080
labels = np.arange(BATCH, dtype=np.int32)

def network(rngs):
    return models.create("mlp", image_shape=(40,), num_classes=CLASSES, hidden=(256, 8),
                         rngs=rngs)

# As with many examples: where all log-probabilities are kept, they have to travel.
dynamics.init = functools.partial(dynamics.init, most_numbers=1)
plan = make_plan(network, (np.ones((BATCH, 40), np.float32), labels), num_epochs=1,
                 loss=losses.make("dal", total_steps=10), optimizer=optax.sgd(0.1),
                 batch_size=BATCH)
found = {}
for model_devices in (1, 2, 8):
    parallel = ShardedJit(model_devices)
    function = experiment.make_accumulate(plan, parallel)
    program = programs.batch_program(parallel, function, donate=True)
    carry = (parallel.init_state(experiment.make_init(plan), jax.random.key(0)),
             parallel.place_data(TrainMetrics.zero()))
    batch = {"inputs": plan.train.inputs, "labels": labels, "position": labels}
    key = parallel.place_data(np.asarray(jax.random.key_data(jax.random.key(0))))
    compiled = program.lower(carry, key, parallel.place_batch(batch)).compile()
    kinds = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
    text = re.findall(rf"= (.*?) (?:{kinds})(?:-start)?\\(", compiled.as_text())
    sizes = [math.prod(map(int, filter(None, shape.split(","))))
             for kind in text for shape in re.findall(r"\\w+\\[([\\d,]*)\\]", kind)]
    found[model_devices] = compiled.cost_analysis()["flops"], sizes
print(json.dumps(found))
"""


def test_each_image_once_and_no_logits_between_devices(run_with_devices):
    found = json.loads(run_with_devices(CODE, 8))
    flops_unshared, _ = found["1"]
    logits_of_device = 64 * 2080 // 8  # however the two are shared
    for model_devices in ("2", "8"):
        flops, sizes = found[model_devices]
        assert flops < 1.5 * flops_unshared
        # Hidden states, numbers of rows, gradients of all but the others' classes.
        assert 0 < max(sizes) < logits_of_device
