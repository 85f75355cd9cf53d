# %% [markdown]
# # A label for every token, and a mask
#
# Tagging: each token of a sentence has a label, some are wrong, and sentences have
# different lengths. Logits are `[batch, time, classes]` and labels `[batch, time]`.
# With `where`, the loss of padding is exactly zero, in value and gradient.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dal_jax import dal_loss, dal_schedule

rng = np.random.default_rng(0)
num_sentences, time, vocabulary, num_classes = 512, 12, 60, 6
tokens = rng.integers(0, vocabulary, (num_sentences, time))
clean = tokens % num_classes
wrong = rng.random(tokens.shape) < 0.4
given = np.where(wrong, rng.integers(0, num_classes, tokens.shape), clean)
lengths = rng.integers(3, time + 1, num_sentences)
known = np.arange(time) < lengths[:, None]
given = np.where(known, given, 0)  # padding needs some label that is a class

# %%
num_epochs, batch_size = 30, 64
total_steps = num_epochs * num_sentences // batch_size
schedule = dal_schedule(total_steps)
optimizer = optax.adam(0.02)


def network(params, tokens):
    return jax.nn.relu(params["embed"][tokens]) @ params["head"]


def mean_loss(params, step, tokens, labels, known):
    logits = network(params, tokens)
    values = dal_loss(logits, labels, step, schedule=schedule, where=known)
    # The mean over the tokens that count, not over the padding.
    return values.sum() / known.sum()


@jax.jit
def train_step(params, opt_state, step, *batch):
    gradient = jax.grad(mean_loss)(params, step, *batch)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, step + 1


one, two = jax.random.split(jax.random.key(0))
params = {
    "embed": jax.random.normal(one, (vocabulary, 32)),
    "head": 0.1 * jax.random.normal(two, (32, num_classes)),
}
opt_state, step = optimizer.init(params), jnp.zeros((), jnp.int32)
for _ in range(num_epochs):
    for rows in rng.permutation(num_sentences).reshape(-1, batch_size):
        batch = tokens[rows], given[rows], known[rows]
        params, opt_state, step = train_step(params, opt_state, step, *batch)

# %%
right = (network(params, tokens).argmax(-1) == clean)[known]
accuracy = float(right.mean())
print(f"{(given != clean)[known].mean():.1%} of the labels are wrong")
print(f"{accuracy:.1%} of the tokens are tagged right")

# %% [markdown]
# What stands in the padding changes nothing.

# %%
value = mean_loss(params, step, tokens[:8], given[:8], known[:8])
other = np.where(known[:8], given[:8], num_classes - 1)
assert value == mean_loss(params, step, tokens[:8], other, known[:8])
