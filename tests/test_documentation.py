"""Everything that the README, the documentation and the examples name exists.

Commands are parsed with the flags and configuration fields that they give, and nothing
is run; links, headings, files, extras and tests are looked up.
"""

import functools
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from dal_jax import cli, commands, losses, models, noise
from dal_jax.data import loading

pytestmark = pytest.mark.filterwarnings("ignore:.*load_module:DeprecationWarning")

ROOT = Path(__file__).parents[1]
# The project's words alone: what is in .venv or made by the site's build is not.
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *ROOT.glob(".github/*.md")]
)
SCRIPTS = sorted([*(ROOT / "examples").glob("*.py"), *(ROOT / "configs").glob("*.py")])
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]
# Fields of a configuration that stand for any.
PLACEHOLDERS = {"FIELD", "noise.FIELD"}
COMMAND = (
    r"(?:^|&& |srun |cd dal_jax )"
    r"((dal-jax|(\S*/)?python (train|benchmarks/|docs/|examples/)).*)"
)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@functools.cache
def anchors(page: Path) -> set[str]:
    """What can be linked in a page: its headings as GitHub names them, its targets."""
    text = re.sub(r"^(```|~~~).*?^\1", "", text_of(page), flags=re.M | re.S)
    headings = re.findall(r"^#+ +(.+)$", text, flags=re.M)
    slugs = {
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
    return slugs | set(re.findall(r"^\(([\w-]+)\)=$", text, flags=re.M))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    text = re.sub(r"^```.*?^```", "", text_of(page), flags=re.M | re.S)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link} in {name_of(page)}"
        assert target.is_relative_to(ROOT), link
        if anchor:
            assert anchor in anchors(target), f"{link} in {name_of(page)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page):
    """Paths of this repository that are written as code."""
    for path in re.findall(r"`([\w./-]+/[\w.-]+\.\w+)`", text_of(page)):
        top = path.split("/")[0]
        if top in ("benchmarks", "configs", "dal_jax", "docs", "examples", "tests"):
            assert (ROOT / path).exists(), f"{path} in {name_of(page)}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_exist(page):
    named = re.findall(r"(?:dal_jax|'\.|\"\.)\[([\w,]+)\]", text_of(page))
    for extra in ",".join(named).split(",") if named else []:
        assert extra in EXTRAS, f"[{extra}] in {name_of(page)}"


def commands_in(text: str) -> list[list[str]]:
    """The words of every ``dal-jax``, ``train.py`` and benchmark command in a text."""
    text = text.replace("\\\n", " ")
    inline = re.findall(r"`((?:dal-jax|python \S+\.py|\.venv/bin/python)[^`]*)`", text)
    lines = [line.strip().lstrip("$ ") for line in text.splitlines()]
    found = []
    for line in [*inline, *lines]:
        start = re.search(COMMAND, line)
        if not start:
            continue
        command = re.split(r"\s(?:#|&&|\||>|&$)", start[1].rstrip('&`"'))[0]
        try:
            words = shlex.split(command)
        except ValueError:  # it goes on in the next line
            continue
        found.append([word for word in words if word not in ("[...]",)])
    return found


def sources() -> list[Path]:
    return [*PAGES, *SCRIPTS]


@pytest.mark.parametrize("source", sources(), ids=name_of)
def test_commands_parse(source, monkeypatch):
    for words in commands_in(text_of(source)):
        if words[0] == "dal-jax":
            if len(words) == 1 or words[1].isupper() or words[1].startswith("-"):
                continue
            name, given = words[1], words[2:]
        elif words[1] == "train.py":
            name, given = "train", words[2:]
        else:
            check_benchmark(words[1], words[2:])
            continue
        assert name in commands.NAMES, f"dal-jax {name} in {name_of(source)}"
        check_command(name, given, monkeypatch)


def flags_of(given: list[str]) -> list[str]:
    """The flags to parse, without brackets and what only stands for something."""
    flags = [word.strip("[]") for word in given]
    return [
        flag
        for flag in flags
        if flag.startswith("-")
        and flag not in ("--help", "--FLAG=VALUE")
        and not any(f"config.{field}=" in flag for field in PLACEHOLDERS)
        and "..." not in flag
    ]


def check_command(name: str, given: list[str], monkeypatch) -> None:
    from dal_jax.__main__ import _module

    seen = {}

    def only_parse(command, define_flags, *, description, argv, configured=True):
        from absl import flags

        values = flags.FlagValues()
        define_flags(values)
        seen["parsed"] = True
        if configured:
            cli._parse(list(argv), values)
        else:
            cli._parse_flags(list(argv), values)

    monkeypatch.setattr(cli, "run_command", only_parse)
    monkeypatch.setattr(cli, "_config_path", recipe_of)
    flags = [
        re.sub(r"=(last)\|best|=(stablehlo)\|onnx", r"=\1\2", flag)
        for flag in flags_of(given)
    ]
    flags = [
        re.sub(r"(--action=\w+)\|.*|--action=ACTION", "--action=relabel", flag)
        for flag in flags
    ]
    _module(name).main([f"dal-jax {name}", *flags])
    assert seen, f"dal-jax {name} does not use cli.run_command"


def recipe_of(path: str) -> str:
    """The file of a ``--config``; ``...`` and ``FILE`` stand for any."""
    recipes = cli.recipe_files()
    if path in ("FILE", "...", "digits | FILE") or "|" in path:
        path = "digits"
    file = recipes.get(Path(path).stem)
    assert file is not None, f"--config={path}"
    return str(file)


def check_benchmark(script: str, given: list[str]) -> None:
    text = (ROOT / script).read_text()
    for flag in flags_of(given):
        name = re.sub(r"^--?|=.*$", "", flag)
        if not name.startswith("config"):
            assert f'"--{name}"' in text or f'"{name}"' in text, f"{flag} of {script}"


def test_a_wrong_name_is_noticed(monkeypatch):
    (words,) = commands_in("    dal-jax train --config=digits --config.nois.rate=1\n")
    with pytest.raises(Exception, match="nois"):
        check_command("train", words[2:], monkeypatch)
    with pytest.raises(AssertionError):
        check_benchmark("benchmarks/losses.py", ["--secnods=3"])


NAMES = {
    "losses": losses.names(),
    "noise": noise.kinds(),
    "data": loading.names(),
    "models": models.names(),
}


@pytest.mark.parametrize("page", NAMES)
def test_a_page_has_every_name_of_its_family(page):
    text = text_of(ROOT / "docs" / f"{page}.md")
    first_cells = " ".join(re.findall(r"^\|([^|]*)\|", text, flags=re.M))
    assert set(NAMES[page]) <= set(re.findall(r"`(\w+)`", first_cells))


def test_the_number_of_losses():
    number = len(losses.names())
    assert f"{number} losses" in text_of(ROOT / "README.md")
    assert f"DAL and {number - 1} others" in text_of(ROOT / "docs/comparison.md")


FIGURES = {
    "README.md": "digits_study/results.md",
    "docs/losses.md": "digits_losses.md",
    "docs/recipes.md": "cifar10_small.md data_as_it_is.md finetuning.md",
}


@pytest.mark.parametrize("page", FIGURES)
def test_figures_are_those_of_the_results(page):
    """Each mean with a deviation in a page's tables is in a file that it names."""

    def figures(path: Path) -> set[tuple[str, str]]:
        text = "\n".join(x for x in text_of(path).splitlines() if x.startswith("|"))
        return set(re.findall(r"0?(\.\d{3}) ± 0?(\.\d{3})", text))

    named = figures(ROOT / page)
    assert named
    for name in FIGURES[page].split():
        assert f"benchmarks/results/{name}" in text_of(ROOT / page)
        named -= figures(ROOT / "benchmarks/results" / name)
    assert named == set()
