"""XLA's compilers for devices that are not here, and what their programs say.

``import compilers`` before JAX looks for devices. A TPU's compiler comes with the
``libtpu`` wheel, the one for NVIDIA GPUs with JAX's CUDA 12 wheels (the extra
``compiled`` has both). The latter needs a description of the device in XLA's text
format and relies on parts of JAX that are not public; it was tried with jax 0.10.2.
"""

import importlib.util
import math
import os
import re
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

# Before JAX is imported: it would look for the devices themselves.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")

from jax.experimental import topologies


class Chip(NamedTuple):
    """A TPU chip: its peak in bfloat16, and the bandwidth and size of its memory.

    The figures are Google's: cloud.google.com/tpu/docs/v5e, /v5p and /v6e.
    """

    topology: str  # in which the chips of one host are named
    flops: float  # a second
    bandwidth: float  # bytes a second
    memory: float  # bytes


TPUS = {
    "v5e": Chip("2x2", 197e12, 819e9, 16e9),
    "v5p": Chip("2x2x1", 459e12, 2765e9, 95e9),
    "v6e": Chip("2x2", 918e12, 1640e9, 32e9),
}
_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2}
_BYTES |= {"f32": 4, "s32": 4, "u32": 4, "f64": 8, "s64": 8, "u64": 8}
_FREE = ("parameter", "tuple", "get-tuple-element", "bitcast", "constant")
_COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "collective-permute",
    "all-to-all",
)


def devices_of(
    target: str, h100: str | None = None, topology: str | None = None
) -> list[Any] | None:
    """Devices to compile for, ``None`` without their compiler.

    Args:
      target: a name of ``TPUS``, or ``h100``.
      h100: the file that describes the GPU.
      topology: of a TPU, such as ``2x4``; the chips of one host unless given.
    """
    if target in TPUS:
        if not importlib.util.find_spec("libtpu"):
            return None
        name = f"{target}:{topology or TPUS[target].topology}"
        return topologies.get_topology_desc(name, platform="tpu").devices
    if not importlib.util.find_spec("jax_cuda12_plugin") or h100 is None:
        return None
    _find_cuda()
    return topologies.get_topology_desc(
        topology_name="h100",
        platform="cuda",
        target_config=Path(h100).read_text(),
        topology="1x1x1",
    ).devices


def _find_cuda() -> None:
    from jax._src import xla_bridge

    (nvidia,) = importlib.util.find_spec("nvidia").submodule_search_locations
    tools = Path(nvidia) / "cuda_nvcc" / "bin"  # ptxas
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    xla_bridge.discover_pjrt_plugins()  # logs that there is no driver


def versions() -> dict[str, str]:
    """Returns the versions of the compilers that are installed."""
    packages = "libtpu", "jax-cuda12-plugin"
    found = (p for p in packages if importlib.util.find_spec(p.replace("-", "_")))
    return {package: metadata.version(package) for package in found}


def collectives(text: str) -> dict[str, dict[str, int]]:
    """Counts the collectives of a compiled program, and the bytes of their results.

    A loop's body is written once and counts once.
    """
    found = {}
    kinds = "|".join(_COLLECTIVES)
    wanted = rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.*?) ({kinds})(-start)?\(.*channel_id=(\d+)"
    for kind, name, starts, channel in re.findall(wanted, text, re.MULTILINE):
        sizes = sorted(map(size_of, re.findall(r"\w+\[[\d,]+\]", kind)))
        if starts and name != "all-reduce":
            sizes = sizes[len(sizes) // 2 :]  # the smaller half are the operands
        # One that is done in pieces while others compute is written several times.
        found[name, channel] = sum(sizes)
    names = sorted({name for name, _ in found})
    of_name = {name: [n for (k, _), n in found.items() if k == name] for name in names}
    return {name: {"count": len(n), "bytes": sum(n)} for name, n in of_name.items()}


def moved_by_kernels(text: str) -> int:
    """Bytes of operands and results of the instructions of the entry computation."""
    sizes, moved = {}, 0
    instruction = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*?) ([\w\-]+)\((.*)")
    for line in text[text.index("\nENTRY ") :].splitlines():
        if found := instruction.match(line):
            name, kind, operation, rest = found.groups()
            sizes[name] = size_of(kind)
            if operation not in _FREE:
                operands = re.findall(r"%([\w.\-]+)", rest.split("), ")[0])
                moved += sizes[name] + sum(sizes.get(o, 0) for o in operands)
    return moved


def size_of(kind: str) -> int:
    """Bytes of an array or a tuple of arrays, as in ``f32[8,1000]{1,0}``."""
    arrays = re.findall(r"(\w+)\[([\d,]*)\]", kind)
    counts = (math.prod(int(n) for n in shape.split(",") if n) for _, shape in arrays)
    return sum(
        _BYTES.get(dtype, 0) * n for (dtype, _), n in zip(arrays, counts, strict=True)
    )
