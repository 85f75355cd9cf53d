# %% [markdown]
# # Bare JAX
#
# The loss is a pure function of logits, labels and the step. It needs no framework:
# here a network is a pytree and an optimizer three lines. Four in ten of the digits'
# training labels are drawn again at random, and the test labels are clean.

# %%
import functools

import jax
import jax.numpy as jnp
import numpy as np

from dal_jax import dal_loss, dal_schedule, data, noise
from dal_jax.config import DatasetConfig

digits = data.load(DatasetConfig("digits"))
images = digits.train.inputs.reshape(-1, 64) / np.float32(255)
clean = digits.train.labels
labels = noise.apply("symmetric", clean, num_classes=10, rate=0.4, seed=0).noisy_labels
print(f"{(labels != clean).mean():.1%} of {len(labels)} labels are wrong")

# %% [markdown]
# The schedule needs the number of steps of the whole run. `functools.partial` turns the
# loss into `loss(logits, labels, step)`.

# %%
num_epochs, batch_size = 60, 64
steps_per_epoch = len(images) // batch_size
total_steps = num_epochs * steps_per_epoch
dal = functools.partial(dal_loss, schedule=dal_schedule(total_steps))


def cross_entropy(logits, labels, step):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[:, None], 1)[:, 0]


def network(params, x):
    return jax.nn.relu(x @ params["w1"] + params["b1"]) @ params["w2"] + params["b2"]


def init(key):
    one, two = jax.random.split(key)
    return {
        "w1": 0.15 * jax.random.normal(one, (64, 256)),
        "b1": jnp.zeros(256),
        "w2": 0.05 * jax.random.normal(two, (256, 10)),
        "b2": jnp.zeros(10),
    }


# %% [markdown]
# The step goes in as an argument that is traced, so that a new step compiles nothing.
# The loss returns one number an example, and the mean is yours to take.


# %%
@functools.partial(jax.jit, static_argnames="loss")
def train_step(params, velocity, step, x, y, loss):
    gradient = jax.grad(lambda p: loss(network(p, x), y, step).mean())(params)
    velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
    rate = 0.2 * (1 - step / total_steps)
    return jax.tree.map(lambda p, v: p - rate * v, params, velocity), velocity, step + 1


def train(loss):
    params = init(jax.random.key(0))
    velocity, step = jax.tree.map(jnp.zeros_like, params), 0
    rng = np.random.default_rng(0)
    for _ in range(num_epochs):
        order = rng.permutation(len(images))[: steps_per_epoch * batch_size]
        for rows in order.reshape(-1, batch_size):
            x, y = images[rows], labels[rows]
            params, velocity, step = train_step(params, velocity, step, x, y, loss)
    test = digits.test.inputs.reshape(-1, 64) / np.float32(255)
    return float((network(params, test).argmax(-1) == digits.test.labels).mean())


# %%
accuracy = {"cross entropy": train(cross_entropy), "DAL": train(dal)}
for name, value in accuracy.items():
    print(f"{name:>13}: {value:.1%} of the test images are right")
