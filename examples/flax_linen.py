# %% [markdown]
# # Linen with a TrainState
#
# `TrainState` counts its steps in `state.step`: the loss takes it from there.

# %%
import flax.linen as nn
import jax
import numpy as np
import optax
from flax.training.train_state import TrainState

from dal_jax import losses

rng = np.random.default_rng(0)
centres = 2 * rng.normal(size=(5, 16))
clean = rng.integers(0, 5, 1000)
features = (centres[clean] + rng.normal(size=(1000, 16))).astype(np.float32)
given = np.where(rng.random(1000) < 0.4, rng.integers(0, 5, 1000), clean)

# %% [markdown]
# `losses.make` builds any loss of the package by name. To compare, change the name:
# `losses.make("gce", q=0.7)` and `losses.make("ce")` have the same signature.

# %%
num_epochs, batch_size = 20, 50
total_steps = num_epochs * len(features) // batch_size
loss = losses.make("dal", total_steps=total_steps, q_end=1.5)


class Network(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(5)(nn.relu(nn.Dense(64)(x)))


network = Network()
state = TrainState.create(
    apply_fn=network.apply,
    params=network.init(jax.random.key(0), features[:1])["params"],
    tx=optax.adam(3e-3),
)


# %%
@jax.jit
def train_step(state, x, y):
    def objective(params):
        return loss(state.apply_fn({"params": params}, x), y, state.step).mean()

    return state.apply_gradients(grads=jax.grad(objective)(state.params))


for _ in range(num_epochs):
    for rows in rng.permutation(len(features)).reshape(-1, batch_size):
        state = train_step(state, features[rows], given[rows])

# %%
predicted = state.apply_fn({"params": state.params}, features).argmax(-1)
wrong = given != clean
corrected = float((predicted == clean)[wrong].mean())
print(f"corrected {corrected:.1%} of {wrong.sum()} wrong labels")
