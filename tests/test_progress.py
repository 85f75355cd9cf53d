"""A progress bar is a widget in a notebook, and a line of text without ipywidgets."""

import sys
import types
import warnings

import pytest

from dal_jax.progress import progress_bar


@pytest.fixture
def notebook(monkeypatch):
    """A process that looks like a notebook's, with or without ipywidgets."""
    chosen = ("tqdm.auto", "tqdm.autonotebook", "tqdm.notebook")
    before = {name: sys.modules.pop(name, None) for name in chosen}
    shell = types.ModuleType("IPython")
    shell.get_ipython = lambda: types.SimpleNamespace()
    display = types.ModuleType("IPython.display")
    display.display = lambda widget: None
    for name, module in (
        ("IPython", shell),
        ("IPython.display", display),
        ("ipykernel", types.ModuleType("ipykernel")),
        ("ipykernel.zmqshell", types.ModuleType("ipykernel.zmqshell")),
    ):
        monkeypatch.setitem(sys.modules, name, module)

    def with_widgets(widgets):
        module = types.ModuleType("ipywidgets") if widgets else None
        if module is not None:
            for name in ("HTML", "FloatProgress", "HBox"):
                setattr(module, name, type(name, (), {"__init__": _keep}))
        monkeypatch.setitem(sys.modules, "ipywidgets", module)

    yield with_widgets
    for name, module in before.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def _keep(self, children=(), **values):
    self.children, self.layout = children, types.SimpleNamespace()
    self.style = types.SimpleNamespace()
    vars(self).update(values)


@pytest.mark.parametrize(("widgets", "kind"), [(True, "notebook"), (False, "std")])
def test_notebooks_get_a_widget_and_no_warning(notebook, widgets, kind, capsys):
    notebook(widgets)
    # tqdm catches its own warning where it is made an error.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with progress_bar(total=2, disable=True) as bar:
            bar.update()
    assert caught == []
    bases = {base.__module__ for base in type(bar).__mro__}
    assert ("tqdm.notebook" in bases) == (kind == "notebook")
    assert capsys.readouterr().err == ""


def test_elsewhere_a_bar_is_a_line_that_is_seldom_drawn(capsys):
    with progress_bar(total=2) as bar:
        bar.update()
        assert bar.mininterval == 5.0
    assert "1/2" in capsys.readouterr().err
