# %% [markdown]
# # Several hosts
#
# Each host runs the same program and holds its own share of every batch. Here two
# processes on this machine stand for two hosts. This is the program:

# %%
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

PROGRAM = """
import sys
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import NamedSharding, PartitionSpec as P
from dal_jax import losses

coordinator, process_id = sys.argv[1], int(sys.argv[2])
jax.distributed.initialize(coordinator, num_processes=2, process_id=process_id)
mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
by_row, replicated = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())

# What this host reads: its own half of each batch of 64.
rng = np.random.default_rng(process_id)
clean = rng.integers(0, 4, (100, 32))
centres = 2 * np.random.default_rng(7).normal(size=(4, 8))
x = (centres[clean] + rng.normal(size=(100, 32, 8))).astype(np.float32)
given = np.where(rng.random(clean.shape) < 0.4, rng.integers(0, 4, clean.shape), clean)

loss = losses.make("dal", total_steps=100)
optimizer = optax.adam(0.05)

@jax.jit
def train_step(params, opt_state, step, x, y):
    # The mean is over the global batch: XLA adds up what the hosts hold.
    objective = lambda p: loss(x @ p, y, step).mean()
    value, gradient = jax.value_and_grad(objective)(params)
    updates, opt_state = optimizer.update(gradient, opt_state)
    return optax.apply_updates(params, updates), opt_state, step + 1, value

params = jax.device_put(jnp.zeros((8, 4)), replicated)
opt_state = jax.device_put(optimizer.init(params), replicated)
step = jax.device_put(jnp.zeros((), jnp.int32), replicated)
share = lambda rows: jax.make_array_from_process_local_data(by_row, rows)
for i in range(100):
    batch = share(x[i]), share(given[i])
    params, opt_state, step, value = train_step(params, opt_state, step, *batch)
right = (x @ np.asarray(params)).argmax(-1) == clean
rows = share(x[0]).shape[0]
print("RESULT", jax.device_count(), rows, float(value), right.mean())
"""

# %% [markdown]
# On real hosts a scheduler starts it, and the address is that of process 0. On Slurm,
# Cloud TPU and Kubernetes, `jax.distributed.initialize()` finds all of this itself.

# %%
with socket.socket() as free:
    free.bind(("localhost", 0))
    address = f"localhost:{free.getsockname()[1]}"
environment = os.environ | {"JAX_PLATFORMS": "cpu"}
with tempfile.TemporaryDirectory() as directory:
    program = Path(directory) / "program.py"
    program.write_text(PROGRAM)
    processes = [
        subprocess.Popen(
            [sys.executable, program, address, str(process_id)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process_id in range(2)
    ]
    outputs = [process.communicate()[0] for process in processes]
assert all(process.returncode == 0 for process in processes)

# %% [markdown]
# Both see two devices, a batch of 64 rows, and the same loss to the last bit.

# %%
losses, accuracies = [], []
for process_id, output in enumerate(outputs):
    # Other lines are the library's that connects the processes.
    devices, rows, loss, accuracy = output.rpartition("RESULT")[2].split()
    print(f"process {process_id}: {devices} devices, a batch of {rows}, loss {loss}")
    losses.append(loss)
    accuracies.append(float(accuracy))
assert losses[0] == losses[1]
print(f"{min(accuracies):.1%} of the true labels are predicted")

# %% [markdown]
# `dal-jax train` and `training.fit` do this for you, with checkpoints that all
# processes write: see the page on scaling for the commands.
