"""What all tests share: quick compilation, a cache and processes of their own."""

import gc
import json
import multiprocessing
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import jaxlib
import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
# Seconds after which a process that should have ended has hung.
PATIENCE = 900

# Programs here are small and run a few times: optimising them costs more than it saves.
# One part each: small programs are not worth being split over the cores.
_QUICK = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    " --xla_cpu_parallel_codegen_split_count=1"
)
if tuple(map(int, jaxlib.__version__.split(".")[:2])) < (0, 11):
    # A third less to compile. Later versions have one code generator, which is faster.
    _QUICK += " --xla_cpu_use_fusion_emitters=false"
if _QUICK not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_QUICK}".strip()
# Accelerators are not shared by the processes that tests run in and start.
os.environ.setdefault("JAX_PLATFORMS", "cpu")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """As many as there are cores, and one for those that wait for other processes."""
    return 1 + len(os.sched_getaffinity(0))


def pytest_configure(config: pytest.Config) -> None:
    """Gives this process and those that it starts a cache directory of their own.

    Not one for all of pytest's processes: JAX writes a compiled program in place, where
    another process may read half of it.
    """
    # Tracing makes many objects, and the collector would go through them all the time.
    gc.set_threshold(50_000)
    directory = tempfile.mkdtemp(prefix="dal_jax_tests_")
    os.environ["XDG_CACHE_HOME"] = directory
    config.add_cleanup(lambda: shutil.rmtree(directory, ignore_errors=True))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begins with what waits longest for other processes, so that nobody waits last."""
    slow = ("test_training_devices", "test_stops", "test_signals")
    items.sort(key=lambda item: not any(name in item.nodeid for name in slow))


@pytest.fixture(scope="session")
def compilation_cache() -> None:
    """Programs that this process compiles are kept for whoever compiles them again."""
    from dal_jax import cli

    cli.use_compilation_cache()


class Page(HTMLParser):
    """What a browser would read: elements with their attributes and text."""

    _VOID = frozenset({"meta", "img", "path"})

    def __init__(self, html):
        super().__init__()
        self.elements, self._open = [], []
        self.feed(html)
        assert self._open == [], "elements that are not closed"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))
        if tag not in self._VOID:
            self._open.append(self.elements[-1])

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs), []))

    def handle_endtag(self, tag):
        if tag not in self._VOID:
            assert self._open.pop()[0] == tag

    def handle_data(self, data):
        for _, _, texts in self._open:
            texts.append(data)

    def all(self, *tags, **attributes):
        """Attributes and text of the elements of some kinds, in their order."""
        return [
            (attrs, " ".join("".join(texts).split()))
            for tag, attrs, texts in self.elements
            if tag in tags and attributes.items() <= attrs.items()
        ]


@pytest.fixture(scope="session")
def parse_page() -> type[Page]:
    """Reads a page of HTML."""
    return Page


@pytest.fixture
def browse(tmp_path) -> Callable[..., str]:
    """Opens HTML in a browser and returns what its scripts made of it."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs Chromium")

    def opened(html: str, *flags: str) -> str:
        path = tmp_path / "opened.html"
        path.write_text(html)
        return subprocess.run(
            [
                chromium,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--hide-scrollbars",
                f"--user-data-dir={tmp_path / 'profile'}",
                "--virtual-time-budget=5000",
                *flags,
                "--dump-dom",
                f"file://{path}",
            ],
            check=True,
            capture_output=True,
            text=True,
            timeout=120,
        ).stdout

    return opened


class Run(NamedTuple):
    """What a finished run left, without the fields that hold a time or a speed."""

    metrics: list[dict[str, Any]]
    summary: dict[str, Any]
    arrays: dict[str, np.ndarray]
    noise: bytes


def _untimed(entry: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in entry.items() if "second" not in key}


@pytest.fixture(scope="session")
def read_run() -> Callable[[Path], Run]:
    """Reads a run's results, the newest checkpoint's arrays among them."""
    import jax
    import orbax.checkpoint as ocp

    # However many devices wrote them, they are read onto one.
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])

    def read(workdir: Path) -> Run:
        steps = [int(path.name) for path in (workdir / "checkpoints").iterdir()]
        path = workdir / "checkpoints" / str(max(steps)) / "arrays"
        with ocp.StandardCheckpointer() as checkpointer:
            shapes = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one),
                checkpointer.metadata(path).item_metadata.tree,
            )
            tree = checkpointer.restore(path, shapes)
        lines = (workdir / "metrics.jsonl").read_text().splitlines()
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return Run(
            [_untimed(json.loads(line)) for line in lines],
            _untimed(json.loads((workdir / "summary.json").read_text())),
            {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in leaves},
            (workdir / "noise.npz").read_bytes(),
        )

    return read


# Runs in the new process. What JAX and others do as Python exits is part of a script,
# and multiprocessing leaves it out.
_RUN = """
import atexit, os, resource, runpy, sys
for number, path in ((1, out), (2, err)):
    os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
os.chdir(root)
os.environ.update(environment)
if file_limit is not None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_limit, file_limit))
sys.argv = argv
try:
    runpy.run_path(argv[0], run_name="__main__")
finally:
    atexit._run_exitfuncs()
"""


class Script:
    """A script in a process of its own."""

    def __init__(self, directory: Path, argv: list[str], **options: Any):
        self._out, self._err = directory / "out", directory / "err"
        given = {"out": str(self._out), "err": str(self._err), "argv": argv} | options
        self._process = _context().Process(target=exec, args=(_RUN, given))
        self._process.start()

    @property
    def status(self) -> int | None:
        """The exit status, or minus the signal that ended it; None while it runs."""
        return self._process.exitcode

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def send(self, number: int) -> None:
        """Sends a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Returns the exit status, once there is one."""
        self._process.join(seconds)
        assert self.status is not None, "still running"
        return self.status

    def wait_until(self, condition: Callable[[], Any]) -> None:
        """Waits for something that happens while the script runs."""
        end = time.monotonic() + PATIENCE
        while not condition():
            assert self.status is None, self.err
            assert time.monotonic() < end, self.err
            time.sleep(0.01)

    def kill(self) -> None:
        """Ends it, whatever it does."""
        self._process.kill()
        self._process.join()


def _context() -> Any:
    # Forks processes that have imported everything already, and started nothing.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        [
            "dal_jax.recipe",
            "dal_jax.commands.train",
            "jax.experimental.multihost_utils",
            "orbax.checkpoint",
            "sklearn.datasets",
        ]
    )
    return context


@pytest.fixture(scope="session")
def start_shared_script(tmp_path_factory) -> Any:
    """Starts a Python script in a process of its own; at last kills what still runs.

    The new process has everything imported that training needs, which takes a fresh one
    seconds, and is otherwise as a fresh one.
    """
    started: list[Script] = []

    def start(
        script: Path,
        *arguments: object,
        devices: int = 1,
        file_limit: int | None = None,
    ) -> Script:
        count = f"--xla_force_host_platform_device_count={devices}"
        process = Script(
            tmp_path_factory.mktemp("script"),
            [str(script), *map(str, arguments)],
            root=str(ROOT),
            environment={"XLA_FLAGS": f"{_QUICK} {count}"},
            file_limit=file_limit,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()


@pytest.fixture
def start_script(start_shared_script) -> Any:
    """The same, of one test, after which what still runs is killed."""
    started: list[Script] = []

    def start(*arguments: Any, **options: Any) -> Script:
        started.append(start_shared_script(*arguments, **options))
        return started[-1]

    yield start
    for process in started:
        process.kill()


@pytest.fixture(scope="session")
def trained(tmp_path_factory, compilation_cache) -> Path:
    """A finished run on digits whose best checkpoint is not its last; only to read."""
    from dal_jax import training
    from dal_jax.config import DatasetConfig, ModelConfig, OptimizerConfig, TrainConfig

    config = TrainConfig(
        dataset=DatasetConfig(train_size=400, validation_fraction=0.2),
        model=ModelConfig("cnn", channels=(8,), hidden=(16,)),
        optimizer=OptimizerConfig(learning_rate=0.5, schedule="constant"),
        num_epochs=6,
        batch_size=32,
        checkpoint_every=1,
        seed=1,
    )
    workdir = tmp_path_factory.mktemp("trained") / "run"
    training.train_and_evaluate(config, workdir)
    return workdir


@pytest.fixture(scope="session")
def test_images(tmp_path_factory) -> Path:
    """The test images of digits, in their order, as a folder with folders in it."""
    from PIL import Image

    from dal_jax.data import digits

    folder = tmp_path_factory.mktemp("images")
    for number, image in enumerate(digits.load().test.inputs):
        below = folder / f"part{number // 250}"
        below.mkdir(exist_ok=True)
        Image.fromarray(image[..., 0]).save(below / f"{number:03d}.png")
    return folder
