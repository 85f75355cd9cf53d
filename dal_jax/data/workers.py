"""Processes that decode batches: threads do not keep all cores busy.

Pillow decodes with Python's lock released but opens files and packs pixels while it
holds it, about a quarter of the time, so that each further thread brings less. A worker
is sent paths or encoded bytes and writes the pixels into memory that it shares with
this process, where they are used without being copied.

Workers start with the first stream that wants them, serve every later one and end with
this process, however it ends. They import this module and ``decode.py`` alone: neither
jax nor the program that started them, which therefore needs no ``__main__`` guard. The
shared memory has no name, so that nothing can be left behind.
"""

import atexit
import contextlib
import math
import mmap
import multiprocessing
import os
import queue
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import NamedTuple

import numpy as np

from dal_jax.data.decode import Failures, decode_rows

# The packages are there by name only: their __init__ would import jax, which takes a
# second and 100 MB. Whoever ends this process decides when its workers end, so that a
# run can finish its last step after SIGTERM.
_PROGRAM = """
import signal, sys, types
signal.signal(signal.SIGTERM, signal.SIG_IGN)
sys.path[:] = {path!r}
for name, places in {packages!r}.items():
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = places
from dal_jax.data.workers import serve
serve({connection}, {memory})
"""


_ENVIRONMENT = {
    # glibc keeps what an image took for the next one: having it from the kernel anew
    # was a seventh of the time.
    "MALLOC_TRIM_THRESHOLD_": str(2**28),
    "MALLOC_MMAP_THRESHOLD_": str(2**25),
    "OMP_NUM_THREADS": "1",
}

_pools: dict[int, "Workers"] = {}
_pools_lock = threading.Lock()


def supported() -> bool:
    """Returns whether this system can share open files with a new process."""
    return os.name == "posix"


def pool(count: int) -> "Workers":
    """Returns the workers of this process, started the first time.

    Args:
      count: how many; each count has workers of its own.
    """
    with _pools_lock:
        if count not in _pools:
            _pools[count] = Workers(count)
        return _pools[count]


@atexit.register
def close():
    """Ends the workers of this process; the next stream starts new ones."""
    with _pools_lock:
        while _pools:
            _pools.popitem()[1].close()


class _Worker(NamedTuple):
    process: subprocess.Popen
    connection: Connection


class _Block(NamedTuple):
    offset: int
    memory: mmap.mmap


class Workers:
    """Processes that decode, each one batch at a time, for any number of threads."""

    def __init__(self, count: int):
        self._memory = _SharedMemory(most_lent=4 * count + 16)
        # None where they have ended.
        self._idle: queue.SimpleQueue[_Worker | None] = queue.SimpleQueue()
        self._count = count
        for _ in range(count):
            self._idle.put(self._start())

    def decode_batch(
        self,
        shape: tuple[int, ...],
        encoded: Sequence[str | bytes | np.ndarray],
        channels: int,
        image_size: int | None,
    ) -> tuple[np.ndarray, Failures]:
        """Decodes like :func:`dal_jax.data.decode.decode_batch`, in another process.

        Raises:
          RuntimeError: if that process has died, or all have been ended.
        """
        worker = self._idle.get()
        if worker is None:
            self._idle.put(None)
            raise RuntimeError("the workers have ended: start a new stream")
        block = self._memory.take(math.prod(shape))
        try:
            worker.connection.send((block.offset, shape, encoded, channels, image_size))
            failures = worker.connection.recv()
        except (EOFError, OSError) as error:
            worker.connection.close()
            status = worker.process.wait()
            worker = self._start()
            raise RuntimeError(
                f"a decoding process died with status {status}, of lack of memory "
                "perhaps: set dataset.workers to fewer, or to 0 for threads"
            ) from error
        finally:
            self._idle.put(worker)
        return self._memory.lend(block, shape), failures

    def close(self):
        """Ends the processes once they are idle; who decodes later is told so."""
        with contextlib.suppress(queue.Empty):
            for _ in range(self._count):
                worker = self._idle.get(timeout=10)
                if worker is None:
                    break
                worker.connection.close()
                worker.process.wait()
        self._idle.put(None)

    def _start(self) -> _Worker:
        ours, theirs = multiprocessing.Pipe()
        names = ("dal_jax", "dal_jax.data")
        program = _PROGRAM.format(
            path=[str(place) for place in sys.path],
            packages={name: list(sys.modules[name].__path__) for name in names},
            connection=theirs.fileno(),
            memory=self._memory.file,
        )
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), self._memory.file),
            env={**os.environ, **_ENVIRONMENT},
            process_group=0,  # Ctrl-C is for this process alone
        )
        theirs.close()
        return _Worker(process, ours)


def serve(connection: int, memory: int):
    """Decodes what is asked for until the other end closes; a worker's whole life.

    Args:
      connection: the file number of this end.
      memory: the file number of the shared memory.
    """
    requests = Connection(connection)
    mapped: dict[tuple[int, int], mmap.mmap] = {}
    with contextlib.suppress(EOFError, ConnectionError):
        while True:
            offset, shape, encoded, channels, image_size = requests.recv()
            place = offset, math.prod(shape)
            if place not in mapped:
                mapped[place] = mmap.mmap(memory, place[1], offset=offset)
            out = np.ndarray(shape, np.uint8, mapped[place])
            requests.send(list(decode_rows(out, encoded, channels, image_size)))


class _SharedMemory:
    """Blocks of memory without a name, each used again when its array is gone."""

    def __init__(self, most_lent: int):
        self.file = _nameless_file()
        weakref.finalize(self, os.close, self.file).atexit = False
        self._most_lent = most_lent
        self._size = self._blocks = 0
        self._free: dict[int, list[_Block]] = {}
        self._growing = threading.Lock()

    def take(self, size: int) -> _Block:
        """Returns a block of so many bytes that nobody uses."""
        try:
            return self._free.setdefault(size, []).pop()
        except IndexError:
            pass
        with self._growing:
            offset = self._size
            self._size += math.ceil(size / mmap.PAGESIZE) * mmap.PAGESIZE
            self._blocks += 1
            os.ftruncate(self.file, self._size)
        return _Block(offset, mmap.mmap(self.file, size, offset=offset))

    def lend(self, block: _Block, shape: tuple[int, ...]) -> np.ndarray:
        """Returns a block's pixels; it comes back when no one has them any more."""
        pixels = np.ndarray(shape, np.uint8, block.memory)
        # Appending needs no lock: it may happen anywhere, also while one is held.
        take_back = self._free[len(block.memory)].append
        lent = self._blocks - sum(map(len, list(self._free.values())))
        if lent > self._most_lent:
            # Whoever keeps many batches gets copies: a block is never given up.
            pixels = pixels.copy()
            take_back(block)
        else:
            # Any view of the array keeps it alive, and with it the loan.
            weakref.finalize(pixels, take_back, block).atexit = False
        return pixels


def _nameless_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("dal_jax")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())
