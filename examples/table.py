# %% [markdown]
# # A table of features
#
# `training.fit` takes any array of inputs. Here they are the 30 columns of
# scikit-learn's breast cancer data, scaled to mean 0 and deviation 1 by the training
# rows. A quarter of the labels is flipped, and the run also says which ones these
# probably are.

# %%
import numpy as np
import optax
from flax import nnx
from sklearn.datasets import load_breast_cancer

from dal_jax import losses, noise, training

table = load_breast_cancer()
order = np.random.default_rng(0).permutation(len(table.target))
train, test = order[:400], order[400:]
mean, deviation = table.data[train].mean(0), table.data[train].std(0)
features = ((table.data - mean) / deviation).astype(np.float32)
clean = table.target[train]
record = noise.apply(
    "symmetric_other", clean, num_classes=2, rate=0.25, seed=0, clean_labels=clean
)
print(f"{record.realised_rate:.1%} of {len(train)} labels are wrong")

# %%
num_epochs, batch_size = 60, 40
total_steps = num_epochs * len(train) // batch_size


def fit(loss):
    return training.fit(
        lambda rngs: nnx.Sequential(
            nnx.Linear(30, 64, rngs=rngs), nnx.relu, nnx.Linear(64, 2, rngs=rngs)
        ),
        (features[train], record.noisy_labels),
        test=(features[test], table.target[test]),
        loss=loss,
        optimizer=optax.sgd(0.1, momentum=0.9),
        num_epochs=num_epochs,
        batch_size=batch_size,
        eval_every=num_epochs,
    )


plain = fit(losses.make("ce"))
result = fit(losses.make("dal", total_steps=total_steps))
accuracy = result.summary["test_accuracy_last"]
print(f"cross entropy: {plain.summary['test_accuracy_last']:.1%} of the test rows")
print(f"          DAL: {accuracy:.1%}")

# %% [markdown]
# The most suspicious labels first. `given` and `suggested` are class numbers.

# %%
issues = result.label_issues()
is_wrong = record.noisy_labels != clean
found = is_wrong[issues.order[: issues.num_issues]].mean()
print(f"{issues.num_issues} labels are suspicious, {found:.0%} of them are wrong")
for row in issues.order[:5]:
    print(
        f"row {row}: given {record.noisy_labels[row]}, rather {issues.suggested[row]}"
    )
