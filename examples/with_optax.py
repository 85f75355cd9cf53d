# %% [markdown]
# # Pipelines of optax
#
# Learning-rate schedules, one optimizer a group of parameters and accumulation work as
# with any loss. One question is worth a thought: which step is the loss's step?

# %%
import jax
import numpy as np
import optax

from dal_jax import dal_schedule, losses

rng = np.random.default_rng(0)
centres = 2 * rng.normal(size=(5, 16))
clean = rng.integers(0, 5, 1024)
features = (centres[clean] + rng.normal(size=(1024, 16))).astype(np.float32)
given = np.where(rng.random(1024) < 0.4, rng.integers(0, 5, 1024), clean)

# %% [markdown]
# The body trains with AdamW and a warm-up, the head with SGD. Gradients of four batches
# make one update. With `MultiSteps`, the learning-rate schedules count updates, because
# the inner optimizer is called once an update.

# %%
num_epochs, batch_size, batches_per_update = 20, 32, 4
num_batches = num_epochs * len(features) // batch_size
num_updates = num_batches // batches_per_update

rate = optax.warmup_cosine_decay_schedule(0.0, 0.02, num_updates // 10, num_updates)
optimizer = optax.MultiSteps(
    optax.multi_transform(
        {
            "adamw": optax.chain(
                optax.clip_by_global_norm(1.0), optax.adamw(rate, weight_decay=1e-4)
            ),
            "sgd": optax.sgd(optax.cosine_decay_schedule(0.1, num_updates), 0.9),
        },
        {"body": "adamw", "head": "sgd"},
    ),
    every_k_schedule=batches_per_update,
)

# %% [markdown]
# The loss's schedule is a function of the completed share of the run. Count batches
# against the number of batches, or updates against the number of updates: either is
# right, mixing them is not. `opt_state.gradient_step` counts updates; with it, all
# batches of one update share one q, and their mean gradient is that of one large batch.

# %%
loss = losses.make("dal", total_steps=num_updates)


def network(params, x):
    return jax.nn.relu(x @ params["body"]) @ params["head"]


@jax.jit
def train_step(params, opt_state, x, y):
    def objective(params):
        return loss(network(params, x), y, opt_state.gradient_step).mean()

    updates, opt_state = optimizer.update(
        jax.grad(objective)(params), opt_state, params
    )
    return optax.apply_updates(params, updates), opt_state


one, two = jax.random.split(jax.random.key(0))
params = {
    "body": 0.25 * jax.random.normal(one, (16, 64)),
    "head": 0.1 * jax.random.normal(two, (64, 5)),
}
opt_state = optimizer.init(params)
for _ in range(num_epochs):
    for rows in rng.permutation(len(features)).reshape(-1, batch_size):
        params, opt_state = train_step(params, opt_state, features[rows], given[rows])

# %%
updates_made = int(opt_state.gradient_step)
last_q = float(dal_schedule(num_updates)(updates_made).q)
wrong = given != clean
corrected = float((network(params, features).argmax(-1) == clean)[wrong].mean())
print(f"{num_batches} batches, {updates_made} updates, q ends at {last_q:.2f}")
print(f"corrected {corrected:.1%} of {wrong.sum()} wrong labels")

# %% [markdown]
# `training.fit` takes `optimizer.gradient_transformation()`. Its step, and the loss's,
# counts batches, so there the loss's schedule has the length of all batches.
