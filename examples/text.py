# %% [markdown]
# # Text
#
# A small transformer over token ids, with a mask for the padding. First every sequence
# has one label, then every token has one. `training.fit` takes both.

# %%
import functools

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dal_jax import dal_loss, dal_schedule, losses, training

rng = np.random.default_rng(0)
num_texts, time, vocabulary, num_topics, padding = 500, 12, 80, 4, 0
topic = rng.integers(0, num_topics, num_texts)
# A topic's words are those whose number leaves it as remainder. Six in ten are its.
words = 1 + num_topics * rng.integers(0, 19, (num_texts, time)) + topic[:, None]
others = rng.integers(1, vocabulary, words.shape)
tokens = np.where(rng.random(words.shape) < 0.6, words, others)
lengths = rng.integers(5, time + 1, num_texts)
tokens[np.arange(time) >= lengths[:, None]] = padding
given = np.where(
    rng.random(num_texts) < 0.4, rng.integers(0, num_topics, num_texts), topic
)


# %%
class Transformer(nnx.Module):
    def __init__(self, rngs, by_token=False):
        self.by_token = by_token
        self.embed = nnx.Embed(vocabulary, 16, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(2, 16, decode=False, rngs=rngs)
        self.norm = nnx.LayerNorm(16, rngs=rngs)
        self.head = nnx.Linear(16, num_topics, rngs=rngs)

    def __call__(self, tokens):
        known = tokens != padding
        x = self.embed(tokens)
        # No token looks at the padding.
        mask = nnx.make_attention_mask(jnp.ones_like(known), known)
        x = self.norm(x + self.attention(x, mask=mask))
        if self.by_token:
            return self.head(x)
        known = known[..., None]
        return self.head((x * known).sum(1) / known.sum(1))


# %%
num_epochs, batch_size = 16, 50
total_steps = num_epochs * 400 // batch_size
fit = functools.partial(
    training.fit,
    optimizer=optax.adam(5e-3),
    num_epochs=num_epochs,
    batch_size=batch_size,
    eval_every=num_epochs,
)
result = fit(
    Transformer,
    (tokens[:400], given[:400]),
    test=(tokens[400:], topic[400:]),
    loss=losses.make("dal", total_steps=total_steps),
)
accuracy = result.summary["test_accuracy_last"]
print(f"{(given != topic)[:400].mean():.1%} of the labels are wrong")
print(f"{accuracy:.1%} of the test texts have the right topic")

# %% [markdown]
# Now a label a token: the group of the word. Labels below 0 mark the padding. They
# count in no accuracy; the loss leaves them out itself, by `where`.

# %%
group = (tokens - 1) % num_topics
flipped = rng.random(tokens.shape) < 0.4
tags = np.where(flipped, rng.integers(0, num_topics, tokens.shape), group)
tags[tokens == padding] = group[tokens == padding] = -1
dal = functools.partial(dal_loss, schedule=dal_schedule(total_steps))


def mean_over_tokens(logits, labels, step):
    known = labels >= 0
    values = dal(logits, jnp.maximum(labels, 0), step, where=known)
    return values.sum(-1) / known.sum(-1)


by_token = fit(
    lambda rngs: Transformer(rngs, by_token=True),
    (tokens[:400], tags[:400]),
    test=(tokens[400:], group[400:]),
    loss=mean_over_tokens,
)
token_accuracy = by_token.summary["test_accuracy_last"]
print(f"{token_accuracy:.1%} of the test tokens have the right tag")
