# %% [markdown]
# # Keras 3 on JAX
#
# A Keras loss sees targets and predictions and no step. So q and the bootstrap weight
# are two variables of the loss, which a callback sets at the start of each epoch. That
# is what the released code does too: it changes q once an epoch.

# %%
import os

os.environ["KERAS_BACKEND"] = "jax"  # before Keras is imported

import keras
import numpy as np

from dal_jax import dal_objective, dal_schedule

rng = np.random.default_rng(0)
centres = 2 * rng.normal(size=(5, 16))
clean = rng.integers(0, 5, 1000)
features = (centres[clean] + rng.normal(size=(1000, 16))).astype(np.float32)
given = np.where(rng.random(1000) < 0.4, rng.integers(0, 5, 1000), clean)


# %%
class DynamicsAwareLoss(keras.losses.Loss):
    def __init__(self):
        super().__init__()
        self.q = keras.Variable(0.0, trainable=False)
        self.bootstrap_weight = keras.Variable(0.0, trainable=False)

    def call(self, y_true, y_pred):
        labels = y_true.astype("int32").reshape(-1)
        weight = self.bootstrap_weight.value
        return dal_objective(y_pred, labels, self.q.value, weight)


class Schedule(keras.callbacks.Callback):
    def __init__(self, loss, num_epochs):
        super().__init__()
        self.loss, self.schedule = loss, dal_schedule(num_epochs)

    def on_epoch_begin(self, epoch, logs=None):
        q, bootstrap_weight = self.schedule(epoch)
        self.loss.q.assign(q)
        self.loss.bootstrap_weight.assign(bootstrap_weight)


# %% [markdown]
# Keras compiles its training step once and carries the model's own variables through
# it. Any other variable would be a constant of the compiled step. So a layer that
# passes its input on owns the two.


# %%
class WithLoss(keras.layers.Layer):
    def __init__(self, loss):
        super().__init__()
        self.q, self.bootstrap_weight = loss.q, loss.bootstrap_weight

    def call(self, x):
        return x


keras.utils.set_random_seed(0)
loss = DynamicsAwareLoss()
model = keras.Sequential(
    [
        keras.Input((16,)),
        keras.layers.Dense(64, activation="relu"),
        keras.layers.Dense(5),
        WithLoss(loss),
    ]
)
model.compile(optimizer=keras.optimizers.Adam(3e-3), loss=loss)
num_epochs = 20
callbacks = [Schedule(loss, num_epochs)]
model.fit(
    features, given, batch_size=50, epochs=num_epochs, callbacks=callbacks, verbose=0
)

# %%
predicted = model.predict(features, batch_size=1000, verbose=0).argmax(-1)
wrong = given != clean
corrected = (predicted == clean)[wrong].mean()
print(
    f"corrected {corrected:.1%} of {wrong.sum()} wrong labels; q is {loss.q.value:.3f}"
)
