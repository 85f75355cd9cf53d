# %% [markdown]
# # Equinox
#
# One thing to know: `eqx.filter_jit` takes a Python number as static, so a step that is
# one compiles the training step anew every time. Keep the step in an array.

# %%
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dal_jax import losses

rng = np.random.default_rng(0)
centres = 2 * rng.normal(size=(5, 16))
clean = rng.integers(0, 5, 1000)
features = (centres[clean] + rng.normal(size=(1000, 16))).astype(np.float32)
given = np.where(rng.random(1000) < 0.4, rng.integers(0, 5, 1000), clean)

# %%
num_epochs, batch_size = 20, 50
total_steps = num_epochs * len(features) // batch_size
loss = losses.make("dal", total_steps=total_steps)

model = eqx.nn.MLP(16, 5, width_size=64, depth=1, key=jax.random.key(0))
optimizer = optax.adam(3e-3)
opt_state = optimizer.init(eqx.filter(model, eqx.is_inexact_array))
compiled = 0


# %%
@eqx.filter_jit
def train_step(model, opt_state, step, x, y):
    global compiled
    compiled += 1  # runs while JAX traces, so it counts compilations

    @eqx.filter_grad
    def gradient(model):
        return loss(jax.vmap(model)(x), y, step).mean()

    updates, opt_state = optimizer.update(gradient(model), opt_state)
    return eqx.apply_updates(model, updates), opt_state, step + 1


step = jnp.zeros((), jnp.int32)
for _ in range(num_epochs):
    for rows in rng.permutation(len(features)).reshape(-1, batch_size):
        x, y = features[rows], given[rows]
        model, opt_state, step = train_step(model, opt_state, step, x, y)

# %%
predicted = jax.vmap(model)(features).argmax(-1)
wrong = given != clean
corrected = float((predicted == clean)[wrong].mean())
print(
    f"corrected {corrected:.1%} of {wrong.sum()} wrong labels; compiled {compiled} time"
)
