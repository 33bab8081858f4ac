"""Makes the pictures of the web page in `docs/images`, with the recoverer that the package ships.

    python docs/app_images.py

It needs the extra [app], aiohttp and Chromium.
"""

import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from prompt_recovery.app.look import look  # noqa: E402
from prompt_recovery.app.page import EXAMPLES, page, require_gradio  # noqa: E402
from prompt_recovery.recovery.assemble import Assembled, assemble  # noqa: E402
from prompt_recovery.recovery.decoding import MBR  # noqa: E402
from prompt_recovery.recovery.recipe import Recipe  # noqa: E402
from prompt_recovery.recovery.retrieval import Retrieval  # noqa: E402
from prompt_recovery.runs.folder import named_runs  # noqa: E402
from tests.browser import Browser  # noqa: E402

# The width of the window, whether it is dark, and whether the page shows why it answers so.
PICTURES = {
    "app": (1280, False, False),
    "app_dark": (1280, True, False),
    "app_phone": (390, True, True),
}


def shipped() -> Assembled:
    """The recoverer that answers on the pictures of the documentation."""
    return assemble(Recipe(named_runs("shipped"), MBR(), retrieval=Retrieval()))


def take(ready: Assembled, folder: Path, pictures: dict[str, tuple[int, bool, bool]]) -> None:
    """Answers the first example of the page, and writes a picture for each size and scheme."""
    blocks = page(ready)
    _, url, _ = blocks.launch(
        prevent_thread_lock=True, quiet=True, footer_links=["api"], **look(require_gradio())
    )
    folder.mkdir(parents=True, exist_ok=True)
    original, rewritten = EXAMPLES[0]
    for name, (width, dark, why) in pictures.items():
        with Browser(width, dark) as browser:
            browser.open(f"{url}?explain=true" if why else url)
            browser.wait("document.getElementById('pr-recover')")
            browser.type("Original text", original)
            browser.type("Rewritten text", rewritten)
            browser.press("Enter", ctrl=True)
            answer = ".pr-why" if why else ".pr-answer"
            browser.wait(f"document.querySelector('{answer}')", seconds=600)
            browser.run("document.activeElement.blur()")
            time.sleep(1)  # what is folded out moves
            browser.picture(folder / f"{name}.png", most=2000 if why else 1400)
    blocks.close()


if __name__ == "__main__":
    take(shipped(), ROOT / "docs" / "images", PICTURES)
