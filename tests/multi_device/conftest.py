import textwrap

import pytest


@pytest.fixture(scope="session")
def run_with_devices(start_shared_script, tmp_path_factory):
    """Runs code in a process of its own that has so many CPU devices.

    The number of devices is fixed once JAX has started, which pytest's process has.
    Returns what the code prints; an error in it fails the test with its traceback.
    """

    def run(code: str, num_devices: int) -> str:
        script = tmp_path_factory.mktemp("code") / "code.py"
        strict = "import warnings; warnings.simplefilter('error')\n"
        script.write_text(strict + textwrap.dedent(code))
        done = start_shared_script(script, devices=num_devices)
        assert done.wait() == 0, done.err
        return done.out

    return run
