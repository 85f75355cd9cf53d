"""Who may import whom, from docs/architecture.md."""

import ast
import functools
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import dal_jax

ROOT = Path(dal_jax.__file__).parent
STANDARD = set(sys.stdlib_module_names)
HEAVY = ("flax", "orbax", "tensorflow_datasets", "grain", "matplotlib", "sklearn")
MODULES = sorted(path.relative_to(ROOT) for path in ROOT.rglob("*.py"))


@functools.cache
def tree(path):
    return ast.parse((ROOT / path).read_text())


@functools.cache
def nodes(path):
    return list(ast.walk(tree(path)))


@functools.cache
def imported(path, everywhere=True):
    """Full names of the modules that a file imports, or only at its top level."""
    names = set()
    for node in nodes(path) if everywhere else tree(path).body:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return frozenset(names)


def tops(names):
    return {name.split(".")[0] for name in names} - STANDARD


def test_finds_imports_everywhere_in_a_file():
    assert "jax.numpy" in imported("schedules.py")
    assert "dal_jax.inference" in imported("__init__.py")
    assert "dal_jax.inference" not in imported("__init__.py", everywhere=False)


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.parts[0] in ("losses", "schedules.py")],
    ids=str,
)
def test_losses_and_schedules_know_jax_alone(path):
    names = imported(path)
    assert tops(names) <= {"jax", "numpy", "chex", "dal_jax"}
    ours = {name for name in names if name.startswith("dal_jax")}
    allowed = (
        "dal_jax.errors",
        "dal_jax.hyperparameters",
        "dal_jax.losses",
        "dal_jax.schedules",
    )
    assert {n for n in ours if not n.startswith(allowed)} <= {"dal_jax"}


@pytest.mark.parametrize(
    "path",
    [p for p in MODULES if p.parts[0] == "noise" and p.name != "__main__.py"],
    ids=str,
)
def test_noise_knows_numpy_alone(path):
    names = imported(path, everywhere=False)
    assert tops(names) <= {"numpy", "dal_jax"}
    ours = {name for name in names if name.startswith("dal_jax.")}
    assert {n.split(".")[1] for n in ours} <= {"noise", "errors", "files", "seeds"}


@pytest.mark.parametrize(
    ("package", "homes"),
    [
        ("flax", ("models/", "training/state.py")),
        ("orbax", ("training/store.py",)),
        # All bars are made in one way; a signal clears them all.
        ("tqdm", ("progress.py", "training/stopping.py")),
    ],
)
def test_packages_stay_where_they_are_known(package, homes):
    users = {str(path) for path in MODULES if package in tops(imported(path))}
    assert {user for user in users if not user.startswith(homes)} == set()


@functools.cache
def attributes(path):
    """Full names of what a file takes from the modules that it imports."""
    names = set(imported(path))
    for node in nodes(path):
        if isinstance(node, ast.Attribute):
            names.add(ast.unparse(node))
        elif isinstance(node, ast.ImportFrom):
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(
    ("known", "homes"),
    [
        (
            ("jax.pmap", "jax.sharding", "jax.shard_map", "jax.make_mesh"),
            # The other one asks whether a kernel's classes are shared by devices.
            {"training/parallel.py", "losses/row_blocks.py"},
        ),
        (
            ("jax.process_", "jax.distributed", "jax.experimental.multihost_utils"),
            {"training/processes.py"},
        ),
    ],
)
def test_devices_and_processes_are_known_where_they_belong(known, homes):
    users = {
        str(path)
        for path in MODULES
        if any(name.startswith(known) for name in attributes(path))
    }
    assert users == homes


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_slow_imports_wait_until_they_are_needed(path):
    slow = {"tensorflow_datasets", "grain", "orbax", "matplotlib", "sklearn", "PIL"}
    assert tops(imported(path, everywhere=False)) & slow == set()


# What is imported, where it is called otherwise than what is installed.
INSTALLED_AS = {
    "PIL": "pillow",
    "absl": "absl-py",
    "array_record": "array-record",
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
}


def test_whatever_is_imported_is_a_dependency():
    # A package that is missing must not be found out after hours of work.
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    dependencies = {
        re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]
    }
    needed = set().union(*(tops(imported(path)) for path in MODULES)) - {"dal_jax"}
    assert {INSTALLED_AS.get(name, name) for name in needed} <= dependencies


def in_new_process(code):
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=ROOT.parent,
    ).stdout


def test_importing_the_package_imports_nothing_heavy_and_starts_no_backend():
    # jax.distributed.initialize has to come before anything that starts one.
    # The number of devices can be set only until then.
    code = """
import sys, jax, dal_jax, dal_jax.losses, dal_jax.noise, dal_jax.schedules
print(*sys.modules)
jax.config.update("jax_num_cpu_devices", 3)
print(jax.device_count("cpu"))
"""
    modules, devices = in_new_process(code).splitlines()
    loaded = {name.split(".")[0] for name in modules.split()}
    assert {"dal_jax", "jax"} <= loaded
    assert loaded & set(HEAVY) == set()
    assert devices == "3"


def test_versions_are_printed_without_importing_what_they_are_of():
    code = """
import sys
from dal_jax.__main__ import main
main(["dal-jax", "--version"])
print(*sys.modules)
"""
    line, loaded = in_new_process(code).splitlines()
    project = tomllib.loads((ROOT.parent / "pyproject.toml").read_text())["project"]
    jax, flax = (importlib.metadata.version(name) for name in ("jax", "flax"))
    assert line == f"dal-jax {project['version']}, jax {jax}, flax {flax}"
    assert {"jax", "numpy", *HEAVY} & set(loaded.split()) == set()


def test_every_public_name_is_found_through_the_package():
    assert set(dal_jax.__all__) <= set(dir(dal_jax))
    for name in dal_jax.__all__:
        assert getattr(dal_jax, name) is not None
    assert dal_jax.dal_loss is dal_jax.losses.dal_loss


def test_noise_is_found_through_the_package():
    assert in_new_process("import dal_jax; print(dal_jax.noise.__name__)") == (
        "dal_jax.noise\n"
    )
    with pytest.raises(AttributeError, match="no attribute 'nosie'"):
        _ = dal_jax.nosie


def test_training_knows_objects_and_no_configuration():
    """Names become objects in recipe.py, which training's face alone points to."""
    for path in MODULES:
        if path.parts[0] == "training":
            names = imported(path)
            assert "dal_jax.config" not in names, path
            if path.name != "__init__.py":
                assert not {"dal_jax.recipe", "dal_jax.trainer"} & names, path


def test_statistics_and_pictures_know_no_run():
    """Anybody's arrays and tables go in: see docs/architecture.md."""
    for path in MODULES:
        names = imported(path)
        ours = {n.split(".")[1] for n in names if n.startswith("dal_jax.")}
        if path.parts[0] == "analysis":
            assert tops(names) <= {"numpy", "scipy", "dal_jax"}, path
            assert ours <= {"analysis", "errors"}, path
        elif path.parts[0] == "reporting":
            known = {"numpy", "matplotlib", "PIL", "jinja2", "dal_jax"}
            assert tops(names) <= known, path
            assert ours <= {"reporting", "analysis"}, path


def test_nobody_imports_a_command():
    for path in MODULES:
        if path.parts[0] != "commands":
            of_commands = {
                n for n in imported(path) if n.startswith("dal_jax.commands")
            }
            assert not of_commands, path
