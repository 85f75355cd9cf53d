# %% [markdown]
# # Flax NNX
#
# The training step is what Flax's own guides write; only the loss is another. The
# optimizer counts the steps, so nothing new has to be carried along.

# %%
import functools

import jax
import numpy as np
import optax
from flax import nnx

from dal_jax import dal_loss, dal_schedule

rng = np.random.default_rng(0)
centres = 2 * rng.normal(size=(5, 16))
clean = rng.integers(0, 5, 1000)
features = (centres[clean] + rng.normal(size=(1000, 16))).astype(np.float32)
given = np.where(rng.random(1000) < 0.4, rng.integers(0, 5, 1000), clean)

# %%
num_epochs, batch_size = 20, 50
total_steps = num_epochs * len(features) // batch_size
loss = functools.partial(dal_loss, schedule=dal_schedule(total_steps))

model = nnx.Sequential(
    nnx.Linear(16, 64, rngs=nnx.Rngs(0)), nnx.relu, nnx.Linear(64, 5, rngs=nnx.Rngs(1))
)
optimizer = nnx.Optimizer(model, optax.adam(3e-3), wrt=nnx.Param)


# %%
@nnx.jit
def train_step(model, optimizer, x, y):
    def objective(model):
        return loss(model(x), y, optimizer.step[...]).mean()

    value, gradient = nnx.value_and_grad(objective)(model)
    optimizer.update(model, gradient)
    return value


for _ in range(num_epochs):
    for rows in rng.permutation(len(features)).reshape(-1, batch_size):
        value = train_step(model, optimizer, features[rows], given[rows])

# %% [markdown]
# Of the wrong labels, how many did the network correct, and how many did it learn?

# %%
predicted = np.asarray(jax.jit(lambda x: model(x).argmax(-1))(features))
wrong = given != clean
corrected = (predicted == clean)[wrong].mean()
print(f"corrected {corrected:.1%}, learned {(predicted == given)[wrong].mean():.1%}")
