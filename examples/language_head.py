# %% [markdown]
# # The head of a language model
#
# With many classes, the logits are the largest array of a training step.
# `losses.from_hidden` takes hidden states and the last layer's kernel, and computes a
# block of rows at a time. Value and gradient are those of the plain form.

# %%
import jax
import jax.numpy as jnp
import numpy as np

from dal_jax import losses

rows, width, vocabulary = 512, 64, 4000
one, two = jax.random.split(jax.random.key(0))
hidden = jax.random.normal(one, (8, rows // 8, width))
kernel = jax.random.normal(two, (width, vocabulary)) / width**0.5
rng = np.random.default_rng(0)
labels = rng.integers(0, vocabulary, hidden.shape[:-1])
known = rng.random(labels.shape) < 0.9  # the rest is padding

loss = losses.make("dal", total_steps=1000)
step = jnp.array(700)


# %% [markdown]
# Three ways to the same mean. The first holds all logits. The second returns each row's
# loss, for weights of your own. The third takes the mean inside and is the cheapest.


# %%
def plain(hidden, kernel):
    values = loss(hidden @ kernel, labels, step)
    return jnp.sum(values, where=known) / known.sum()


def by_row(hidden, kernel):
    of_rows = losses.from_hidden(loss, rows_per_block=64)
    values = of_rows(hidden, kernel, labels, step, where=known)
    return values.sum() / known.sum()


def mean(hidden, kernel):
    of_all = losses.mean_from_hidden(loss, rows_per_block=64)
    return of_all(hidden, kernel, labels, step, where=known)


# %%
logits_size = rows * vocabulary * 4
values, gradients, memory = {}, {}, {}
for form in (plain, by_row, mean):
    function = jax.jit(jax.value_and_grad(form, argnums=(0, 1)))
    compiled = function.lower(hidden, kernel).compile()
    value, gradient = compiled(hidden, kernel)
    name = form.__name__
    values[name], gradients[name] = float(value), gradient
    memory[name] = compiled.memory_analysis().temp_size_in_bytes / logits_size
    print(f"{name:>6}: {value:.6f}, temporaries {memory[name]:.2f} times the logits")

# %%
for name in ("by_row", "mean"):
    for ours, expected in zip(gradients[name], gradients["plain"], strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-8)
print("the gradients are equal")
