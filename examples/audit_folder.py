# %% [markdown]
# # Which images of a folder are labelled wrong
#
# The folder `photos/train` has one directory a class. It is made here from
# scikit-learn's digits, with 100 images moved to a wrong directory. Training, audit and
# a better label file are three commands; a notebook calls them through Python.

# %%
import contextlib
import csv
import json
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from dal_jax.__main__ import main as dal_jax

rng = np.random.default_rng(0)
directory = Path(tempfile.mkdtemp())
digits = load_digits()
moved = set(rng.choice(500, 100, replace=False).tolist())
for number in range(500):
    true = int(digits.target[number])
    place = (true + rng.integers(1, 10)) % 10 if number in moved else true
    name = f"class{place}/{number:03d}-really-{true}.png"
    path = directory / "photos/train" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((digits.images[number] * 15).astype(np.uint8)).save(path)


# %%
def run(command):
    print("$", command)
    with contextlib.chdir(directory):
        dal_jax(command.split())


run(
    "dal-jax train --config=folder --config.dataset.data_dir=photos"
    " --config.dataset.image_size=8 --config.dataset.channels=1"
    " --config.dataset.validation_fraction=0 --config.dataset.cache_dir="
    " --config.model.name=mlp --config.augmentation.crop_padding=0"
    " --config.augmentation.flip=false --config.optimizer.learning_rate=0.05"
    " --config.num_epochs=30 --config.batch_size=32"
    " --config.eval_every=30 --workdir=run"
)

# %%
run("dal-jax audit --workdir=run --write_labels=labels.npy --action=relabel")

# %% [markdown]
# `label_issues.html` is a page with the images; the same table is in
# `label_issues.csv`. The file names say what the digits really are, so the result can
# be checked. Nothing in the run reads them.

# %%
table = (directory / "run/label_issues.csv").read_text()
rows = list(csv.DictReader(table.splitlines()))
for row in rows[:5]:
    name = Path(row["name"]).name
    print(name, row["given_label"], "rather", row["suggested_label"], row["score"])
num_issues = json.loads((directory / "run/audit.json").read_text())["num_issues"]
flagged = [row for row in rows if row["is_issue"] == "1"]
wrong = [row for row in flagged if row["name"][-5] != row["given_label"][-1]]
precision, recall = len(wrong) / num_issues, len(wrong) / len(moved)
print(f"{num_issues} of 500 are flagged; {precision:.0%} of them were moved,")
print(f"and {recall:.0%} of what was moved is flagged")
