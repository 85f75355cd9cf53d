# %% [markdown]
# # Sound
#
# A tone of one of eight pitches, half a second each, in noise. The features are the
# logarithm of a spectrum over time, `[N, frames, bands]`, computed with numpy. Three in
# ten recordings are labelled wrong, mostly as the next pitch.

# %%
import numpy as np
import optax
from flax import nnx

from dal_jax import losses, noise, training

rng = np.random.default_rng(0)
num_classes, rate, seconds = 8, 4000, 0.5
pitch = rng.integers(0, num_classes, 500)
time = np.arange(int(rate * seconds)) / rate
frequency = 300 * 2 ** (pitch / 6) * rng.uniform(0.99, 1.01, len(pitch))
phase, loudness = rng.uniform(0, 6, (2, len(pitch), 1))
tone = np.sin(2 * np.pi * frequency[:, None] * time + phase) * (0.2 + loudness / 6)
waves = tone + 0.5 * rng.normal(size=tone.shape)

# %%
frames = waves.reshape(len(waves), -1, 125) * np.hanning(125)
power = np.abs(np.fft.rfft(frames, n=256)) ** 2
features = np.log(power[..., :48] + 1e-3).astype(np.float32)
print("features", features.shape)

# %%
train, test = slice(0, 400), slice(400, None)
matrix = 0.7 * np.eye(num_classes) + 0.2 * np.roll(np.eye(num_classes), 1, axis=1)
matrix += 0.1 / num_classes
record = noise.apply(
    "transition_matrix",
    pitch[train],
    num_classes=num_classes,
    clean_labels=pitch[train],
    transition_matrix=matrix,
)
print(f"{record.realised_rate:.1%} of the labels are wrong")

# %% [markdown]
# The network convolves over time and averages. `training.fit` knows nothing of sound.


# %%
class Network(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(48, 16, kernel_size=(3,), rngs=rngs)
        self.head = nnx.Linear(16, num_classes, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.conv(x)).mean(axis=1))


num_epochs, batch_size = 25, 50
result = training.fit(
    Network,
    (features[train], record.noisy_labels),
    test=(features[test], pitch[test]),
    loss=losses.make("dal", total_steps=num_epochs * 400 // batch_size),
    optimizer=optax.adam(5e-3),
    num_epochs=num_epochs,
    batch_size=batch_size,
    eval_every=num_epochs,
)
accuracy = result.summary["test_accuracy_last"]
print(f"{accuracy:.1%} of the test tones are recognised")

# %%
issues = result.label_issues()
is_wrong = record.noisy_labels != pitch[train]
found = is_wrong[issues.order[: issues.num_issues]].mean()
print(f"{issues.num_issues} suspicious labels, {found:.0%} of them wrong")
