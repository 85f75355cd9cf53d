"""How Sphinx builds the site: ``sphinx-build -W docs site``.

The pages are the Markdown files of this directory, the scripts in ``examples/``,
which are run, and the docstrings. Set ``DAL_JAX_DOCS_ONLINE=1`` to link names of JAX,
Flax and optax to their documentation; without it the build needs no network.
"""

import os
import re
import shutil
from pathlib import Path

import dal_jax

HERE = Path(__file__).parent
ROOT = HERE.parent

project = "dal_jax"
author = copyright = "The dal_jax authors"
release = version = dal_jax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
exclude_patterns = ["_build", "conf.py", "pictures.py", "optax"]
exclude_patterns += ["examples/language_model.py"]  # a command; language_model.md

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# The examples are scripts in the percent format, one kernel each.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 240
nb_merge_streams = True
nb_output_stderr = "remove"  # progress bars

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures have them
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_use_ivar = True  # a NamedTuple documents its fields itself

online = os.environ.get("DAL_JAX_DOCS_ONLINE") == "1"
intersphinx_mapping = (
    {
        "flax": ("https://flax.readthedocs.io/en/stable", None),
        "jax": ("https://docs.jax.dev/en/latest", None),
        "numpy": ("https://numpy.org/doc/stable", None),
        "optax": ("https://optax.readthedocs.io/en/latest", None),
        "python": ("https://docs.python.org/3", None),
    }
    if online
    else {}
)

html_theme = "sphinx_book_theme"
html_title = "dal_jax"
html_theme_options = {
    "show_toc_level": 2,
    "use_download_button": False,
    "navbar_persistent": [],  # the side bar has a search
}
html_static_path = ["site.css"]
html_css_files = ["site.css"]


# Other scripts in examples/ are programs with flags, and no pages.
NOTEBOOKS = [
    script
    for script in sorted((ROOT / "examples").glob("*.py"))
    if script.read_text().startswith("# %%")
]


def _copy_examples(app, config):
    """Sphinx reads pages below its own directory alone."""
    copies = HERE / "examples"
    shutil.rmtree(copies, ignore_errors=True)
    copies.mkdir()
    for script in NOTEBOOKS:
        shutil.copy(script, copies)


def _outside(app, docname, source):
    """Links that leave this directory work in the repository; here, they change."""

    def link(match):
        text, path = match.groups()
        if (HERE / path).resolve() in NOTEBOOKS:
            return f"[{text}]({path.removeprefix('../')})"
        return f"{{download}}`{text.strip('`')} <{path}>`"

    source[0] = re.sub(r"\[([^]]+)\]\((\.\./[^)#]+)\)", link, source[0])


def _sections(app, what, name, obj, options, lines):
    """Napoleon knows no section whose name has a hyphen."""
    lines[:] = [
        line.replace("Hyper-parameters:", "Keyword Args:")
        if line.strip() == "Hyper-parameters:"
        else line
        for line in lines
    ]


def _documented(app, pagename, templatename, context, doctree):
    """A source page links back to what the site documents, and to nothing else.

    A module whose members are documented elsewhere has links to anchors of its own too.
    """
    if not pagename.startswith("_modules/"):
        return
    objects = app.env.get_domain("py").objects.values()
    known = {f"{entry.docname}.html#{entry.node_id}" for entry in objects}

    def link(match):
        return match[0] if match["target"] in known else ""

    back = r'<a class="viewcode-back" href="(?:\.\./)*(?P<target>[^"]*)">.*?</a>'
    context["body"] = re.sub(back, link, context["body"])


def setup(app):
    """Sphinx calls this."""
    app.connect("html-page-context", _documented)
    app.connect("config-inited", _copy_examples)
    app.connect("source-read", _outside)
    app.connect("autodoc-process-docstring", _sections, priority=400)  # before napoleon
