"""A small language model, trained on a text in which many tokens are wrong.

    python examples/language_model.py [--loss=dal] [--wrong=0.4] [--tokens=100000]

The text is what ``help()`` knows about Python's syntax (``pydoc_data.topics``, which
every Python installation has), in tokens: frequent words, and letters for the rest. A
share of the training text's tokens is replaced by random ones. The held-out text is
clean. The loss never sees all logits: it takes the hidden states and the last layer
(``losses.mean_from_hidden``). Its schedule is set by the budget of tokens.
docs/language_model.md has the results.
"""

import argparse
import re
from collections import Counter
from collections.abc import Iterator
from pydoc_data.topics import topics

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from dal_jax import losses

WORDS, CONTEXT, BATCH, WIDTH, LAYERS, HEADS = 500, 32, 32, 64, 2, 4


class Block(nnx.Module):
    """Attention to earlier tokens, then a perceptron, each added to its input."""

    def __init__(self, rngs: nnx.Rngs):
        self.norms = nnx.List([nnx.LayerNorm(WIDTH, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.wide = nnx.Linear(WIDTH, 4 * WIDTH, rngs=rngs)
        self.narrow = nnx.Linear(4 * WIDTH, WIDTH, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps ``[batch, tokens, WIDTH]`` to the same shape."""
        x = x + self.attention(self.norms[0](x), is_causal=True)
        return x + self.narrow(nnx.gelu(self.wide(self.norms[1](x))))


class LanguageModel(nnx.Module):
    """Tokens to hidden states; ``head`` would turn these into logits."""

    def __init__(self, vocabulary: int, rngs: nnx.Rngs):
        self.tokens = nnx.Embed(vocabulary, WIDTH, rngs=rngs)
        self.places = nnx.Embed(CONTEXT, WIDTH, rngs=rngs)
        self.blocks = nnx.List([Block(rngs) for _ in range(LAYERS)])
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.head = nnx.Linear(WIDTH, vocabulary, rngs=rngs)

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps ``[batch, CONTEXT]`` tokens to hidden states ``[..., WIDTH]``."""
        x = self.tokens(tokens) + self.places(jnp.arange(CONTEXT))
        for block in self.blocks:
            x = block(x)
        return self.norm(x)


def read_text() -> tuple[np.ndarray, np.ndarray, int]:
    """Returns the tokens to train on, those held out, and how many kinds there are."""
    # Paragraphs that come twice would be held out and trained on.
    paragraphs = list(dict.fromkeys("\n\n".join(topics.values()).split("\n\n")))
    cut = len(paragraphs) * 9 // 10
    parts = paragraphs[:cut], paragraphs[cut:]
    pieces = [re.findall(r" ?\w+|\s+|[^\w\s]", "\n\n".join(part)) for part in parts]
    frequent = {piece for piece, _ in Counter(pieces[0]).most_common(WORDS)}
    tokens = [
        [t for piece in part for t in ([piece] if piece in frequent else piece)]
        for part in pieces
    ]
    numbers = {t: i for i, t in enumerate(sorted(set().union(*tokens)))}
    train, test = (np.array([numbers[t] for t in part], np.int32) for part in tokens)
    return train, test, len(numbers)


def corrupt(text: np.ndarray, share: float, kinds: int, seed: int) -> np.ndarray:
    """Returns the text with a share of its tokens replaced by any others, uniformly."""
    rng = np.random.default_rng([seed, 1])
    other = (text + rng.integers(1, kinds, len(text))) % kinds
    return np.where(rng.random(len(text)) < share, other, text).astype(np.int32)


def windows(tokens: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Returns CONTEXT tokens from each start, and the one after them."""
    return tokens[starts[:, None] + np.arange(CONTEXT + 1)]


@nnx.jit
def evaluate(model: LanguageModel, text: jax.Array) -> dict[str, jax.Array]:
    """Returns the perplexity of a text, and the share of its tokens predicted."""
    logits, given = model.head(model(text[:, :-1])), text[:, 1:]
    cross_entropy = losses.ce(logits, given).mean()
    accuracy = jnp.mean(logits.argmax(-1) == given)
    return {"perplexity": jnp.exp(cross_entropy), "accuracy": accuracy}


def train(
    loss_name: str, wrong: float, seed: int, budget: int, **hyperparameters: float
) -> Iterator[dict[str, float]]:
    """Trains on ``budget`` tokens, in whole steps; yields ten evaluations' figures."""
    clean, held_out, vocabulary = read_text()
    text = corrupt(clean, wrong, vocabulary, seed)
    starts = np.arange(0, len(held_out) - CONTEXT, CONTEXT)
    test = jnp.asarray(windows(held_out, starts))

    total_steps = budget // (BATCH * CONTEXT)
    loss = losses.make(loss_name, total_steps=total_steps, **hyperparameters)
    mean_loss_of = losses.mean_from_hidden(loss)
    model = LanguageModel(vocabulary, nnx.Rngs(seed))
    rate = optax.warmup_cosine_decay_schedule(0, 2e-3, total_steps // 20, total_steps)
    optimizer = nnx.Optimizer(model, optax.adamw(rate), wrt=nnx.Param)

    @nnx.jit
    def train_step(model, optimizer, text, step):
        def mean_loss(model):
            hidden, head = model(text[:, :-1]), model.head
            kernel, bias = head.kernel[...], head.bias[...]
            return mean_loss_of(hidden, kernel, text[:, 1:], step, bias=bias)

        value, gradient = nnx.value_and_grad(mean_loss)(model)
        optimizer.update(model, gradient)
        return value

    rng = np.random.default_rng([seed, 2])
    every = -(-total_steps // 10)
    for step in range(total_steps):
        batch = windows(text, rng.integers(0, len(text) - CONTEXT, BATCH))
        value = train_step(model, optimizer, batch, np.int32(step))
        if (step + 1) % every == 0 or step + 1 == total_steps:
            figures = {"train_loss": value, **evaluate(model, test)}
            yield {
                "tokens": (step + 1) * BATCH * CONTEXT,
                **{name: float(figure) for name, figure in figures.items()},
            }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loss", default="dal", choices=losses.names())
    parser.add_argument("--wrong", type=float, default=0.4)
    for name, default in ("seed", 0), ("tokens", 100_000):
        parser.add_argument(f"--{name}", type=int, default=default)
    a = parser.parse_args()
    for line in train(a.loss, a.wrong, a.seed, a.tokens):
        print(*(f"{name} {figure:.6g}" for name, figure in line.items()), sep=", ")
