"""How the page looks."""

from importlib.resources import files
from typing import Any

from prompt_recovery.reporting.html import evidence_css

# Ctrl+Enter (Cmd+Enter on a Mac) in a text box presses the button.
_JS = """
() => document.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey)) return;
  if (event.target.tagName !== "TEXTAREA") return;
  event.preventDefault();
  event.target.dispatchEvent(new Event("input", { bubbles: true }));
  setTimeout(() => document.getElementById("pr-recover")?.click(), 50);
})
"""
_COLOURS = {
    "background_fill_primary": "*neutral_50",
    "body_text_color_subdued": "*neutral_600",
    "block_info_text_color": "*neutral_600",
    "block_info_text_color_dark": "*neutral_300",
    "block_title_text_color": "*primary_700",
    "block_label_text_color": "*primary_700",
    "input_placeholder_color": "*neutral_500",
    "input_placeholder_color_dark": "*neutral_300",
    "input_border_width": "1px",
    "input_border_color": "*neutral_500",
    "input_border_color_dark": "*neutral_400",
    "input_border_color_focus": "*primary_600",
    "input_border_color_focus_dark": "*primary_300",
    "checkbox_border_color": "*neutral_500",
    "checkbox_border_color_dark": "*neutral_400",
    "button_primary_background_fill": "*primary_600",
    "button_primary_background_fill_hover": "*primary_700",
    "checkbox_label_background_fill_selected": "*primary_600",
    "link_text_color": "*primary_700",
    "link_text_color_dark": "*primary_300",
}
"""Colours with a contrast of at least 4.5 for texts, and of 3 for the borders of controls (WCAG
2.2, 1.4.3 and 1.4.11), where those of the theme have less."""


def look(gr: Any) -> dict[str, Any]:
    """Returns theme, CSS and JavaScript.

    Fonts are those of the system, so that nothing is fetched from other servers.

    Args:
        gr: The module `gradio`.
    """
    theme = gr.themes.Soft(
        font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    ).set(**_COLOURS)
    css = files(__package__).joinpath("page.css").read_text("utf-8")
    return {"theme": theme, "css": css + evidence_css(), "js": _JS}
