# %% [markdown]
# # Five values of `q_end` at once
#
# `q_start` and `q_end` may be traced, so `jax.vmap` trains one network a value in a
# single program. To choose between the values, hold out labels as they are given, wrong
# ones included. Clean labels are shown for comparison and decide nothing.

# %%
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dal_jax import dal_loss, dal_schedule, data, noise
from dal_jax.config import DatasetConfig

digits = data.load(DatasetConfig("digits"))
images = digits.train.inputs.reshape(-1, 64) / np.float32(255)
clean = digits.train.labels
given = noise.apply("symmetric", clean, num_classes=10, rate=0.6, seed=0).noisy_labels
train_x, train_y = jnp.asarray(images[:1024]), jnp.asarray(given[:1024])
held_out_x, held_out_y = images[1024:], given[1024:]

# %%
num_epochs, batch_size = 60, 64
steps_per_epoch = len(train_x) // batch_size
total_steps = num_epochs * steps_per_epoch
optimizer = optax.sgd(optax.cosine_decay_schedule(0.2, total_steps), momentum=0.9)


def network(params, x):
    return jax.nn.relu(x @ params["w1"]) @ params["w2"]


def train(q_end):
    schedule = dal_schedule(total_steps, q_end=q_end)

    def train_step(carry, step):
        params, opt_state = carry
        key = jax.random.fold_in(jax.random.key(1), step // steps_per_epoch)
        order = jax.random.permutation(key, len(train_x)).reshape(-1, batch_size)
        rows = order[step % steps_per_epoch]

        def objective(params):
            logits = network(params, train_x[rows])
            return dal_loss(logits, train_y[rows], step, schedule=schedule).mean()

        gradient = jax.grad(objective)(params)
        updates, opt_state = optimizer.update(gradient, opt_state)
        return (optax.apply_updates(params, updates), opt_state), None

    one, two = jax.random.split(jax.random.key(0))
    params = {
        "w1": 0.15 * jax.random.normal(one, (64, 128)),
        "w2": 0.05 * jax.random.normal(two, (128, 10)),
    }
    start = params, optimizer.init(params)
    (params, _), _ = jax.lax.scan(train_step, start, jnp.arange(total_steps))
    return params


# %%
q_ends = jnp.array([0.8, 1.0, 1.2, 1.5, 2.0])
params = jax.jit(jax.vmap(train))(q_ends)


def accuracies(x, y):
    predicted = jax.vmap(network, (0, None))(params, x).argmax(-1)
    return np.asarray((predicted == y).mean(-1))


held_out = accuracies(held_out_x, held_out_y)
test_x = digits.test.inputs.reshape(-1, 64) / np.float32(255)
test = accuracies(test_x, digits.test.labels)
print("q_end  held out, given labels  test, clean labels")
for q_end, a, b in zip(q_ends, held_out, test, strict=True):
    print(f"{q_end:5.1f}  {a:22.1%}  {b:18.1%}")
print(f"chosen by the held-out labels: q_end = {q_ends[held_out.argmax()]:.1f}")
