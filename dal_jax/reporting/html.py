"""The templates of the pages, and what they share."""

import functools
from pathlib import Path
from typing import Any


@functools.cache
def template(name: str) -> Any:
    """Returns a template of this package; whatever it is given is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["grouped"] = "{:,}".format
    environment.filters["percent"] = lambda share: f"{100 * share:.1f} %"
    return environment.get_template(name)
