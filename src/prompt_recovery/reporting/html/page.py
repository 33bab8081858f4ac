"""The frame of every page."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from prompt_recovery.storage import atomic_write

_ENVIRONMENT = jinja2.Environment(
    loader=jinja2.PackageLoader("prompt_recovery.reporting", "html"),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Section:
    """A part of a page under its own heading.

    Attributes:
        title: the heading; also names the link to it.
        body: what `parts` and `charts` made, added together.
    """

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        """The heading as part of a link."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def page(title: str, sections: Sequence[Section], lead: str | Markup = "", foot: str = "") -> str:
    """One self-contained HTML page: light and dark, for wide screens and phones.

    Args:
        title: of the page.
        sections: in order; links to them stand at the top.
        lead: what the first screen says, before any section.
        foot: a line at the end.

    Returns:
        The page's text. Whatever isn't `Markup` is escaped.
    """
    return render("page.html.jinja", title=title, sections=sections, lead=lead, foot=foot)


def write_page(path: Path, html: str) -> None:
    """Writes a page whole; what UTF-8 cannot hold (half a surrogate pair) becomes "?".

    Raises:
        PromptRecoveryError: the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


def render(template: str, **values: Any) -> Markup:
    """Fills one of the templates beside this module; texts among the values are escaped."""
    return Markup(_ENVIRONMENT.get_template(template).render(values))
