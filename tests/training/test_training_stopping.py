"""What a Stop makes of a KeyboardInterrupt, by whoever handles signals."""

import signal

import pytest

from dal_jax.training.stopping import Interrupted, Stop, stop_signals


def test_without_a_handler_of_ones_own_ctrl_c_is_a_keyboard_interrupt():
    with pytest.raises(KeyboardInterrupt), Stop().at_once("stopped early"):
        raise KeyboardInterrupt


def test_the_command_is_told_in_one_line():
    with (
        pytest.raises(Interrupted, match="stopped early"),
        stop_signals() as stop,
        stop.at_once("stopped early"),
    ):
        signal.raise_signal(signal.SIGTERM)
    assert stop.signal_number == signal.SIGTERM
