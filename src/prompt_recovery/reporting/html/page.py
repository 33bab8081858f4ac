"""The frame of every HTML page."""

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
        title: The heading, from which its link is made.
        body: Content, joined from the results of `parts` and `charts`.
    """

    title: str
    body: Markup

    @property
    def anchor(self) -> str:
        """The heading as an anchor for links."""
        return re.sub(r"\W+", "-", self.title.lower()).strip("-")


def page(title: str, sections: Sequence[Section], lead: str | Markup = "", foot: str = "") -> str:
    """Renders a self-contained HTML page with light and dark colours, for any screen size.

    Args:
        title: Title of the page.
        sections: Sections in order. Links to them are placed at the top.
        lead: Content before the first section.
        foot: A line at the end.

    Returns:
        The page's HTML. Everything that is not `Markup` is escaped.
    """
    return render("page.html.jinja", title=title, sections=sections, lead=lead, foot=foot)


def write_page(path: Path, html: str) -> None:
    """Writes a page atomically. Characters that UTF-8 cannot encode are replaced by "?".

    Raises:
        PromptRecoveryError: If the file cannot be written.
    """
    with atomic_write(path) as temporary:
        temporary.write_text(html, encoding="utf-8", errors="replace")


def render(template: str, **values: Any) -> Markup:
    """Renders one of the templates in this folder. Texts among the values are escaped."""
    return Markup(_ENVIRONMENT.get_template(template).render(values))
