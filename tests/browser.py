"""Headless Chromium through its DevTools protocol: opens a page, runs scripts, takes pictures."""

import asyncio
import base64
import json
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType

import pytest

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


# Texts whose contrast is less than 4.5, and borders of text boxes with less than 3 (WCAG 2.2).
LOW_CONTRAST = """(() => {
  const parsed = (c) => { const v = c.match(/[\\d.]+/g).map(Number); return [...v.slice(0, 3), v[3] ?? 1]; };
  const over = (top, below) => [0, 1, 2].map((i) => top[i] * top[3] + below[i] * (1 - top[3])).concat(1);
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => v / 255 <= .04045 ? v / 3294.6 : ((v / 255 + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const contrast = (a, b) => {
    const [dark, light] = [luminance(a), luminance(b)].sort((x, y) => x - y);
    return (light + .05) / (dark + .05);
  };
  const above = (e) => { const found = []; for (let n = e; n; n = n.parentElement) found.push(n); return found; };
  const ground = (e) => above(e).map((n) => parsed(getComputedStyle(n).backgroundColor))
    .reduceRight((below, top) => over(top, below), [255, 255, 255, 1]);
  const seen = (e) => e.offsetParent && e.getBoundingClientRect().height > 1
    && getComputedStyle(e).visibility !== "hidden";
  const found = [];
  const check = (e, colour, below, least, what) => {
    const own = parsed(colour);
    own[3] *= above(e).reduce((product, n) => product * getComputedStyle(n).opacity, 1);
    const ratio = contrast(over(own, below), below);
    if (ratio < least) found.push(`${what}: ${ratio.toFixed(2)}`);
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const text = texts.currentNode.textContent.trim(), e = texts.currentNode.parentElement;
    if (text && seen(e)) check(e, getComputedStyle(e).color, ground(e), 4.5, text.slice(0, 40));
  }
  for (const e of [...document.querySelectorAll("textarea, input[type=text], input[type=number]")].filter(seen)) {
    check(e, getComputedStyle(e).borderTopColor, ground(e.parentElement), 3, `border of ${e.tagName}`);
    if (e.placeholder) check(e, getComputedStyle(e, "::placeholder").color, ground(e), 4.5, e.placeholder);
  }
  return found;
})()"""  # noqa: E501


class Browser:
    """A page in headless Chromium, at one size and in one colour scheme.

    Args:
        width: Width of the window in pixels; below 500, it is a phone.
        dark: Whether the user prefers dark colours.
    """

    def __init__(self, width: int = 1280, dark: bool = False) -> None:
        self._loop = asyncio.new_event_loop()
        self._folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        self._width, self._dark, self._number = width, dark, 0

    def __enter__(self) -> "Browser":
        words = [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", "--remote-debugging-port=0", f"--user-data-dir={self._folder.name}",
            "about:blank",
        ]  # fmt: skip
        self._process = subprocess.Popen(
            words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._loop.run_until_complete(self._connect())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._loop.run_until_complete(self._session.close())
        self._process.terminate()
        self._process.wait(20)
        self._loop.close()
        self._folder.cleanup()

    async def _connect(self) -> None:
        import aiohttp

        port = Path(self._folder.name) / "DevToolsActivePort"
        ends = time.monotonic() + 120
        while not port.is_file() or not port.read_text().strip():
            assert time.monotonic() < ends, "Chromium does not start"
            await asyncio.sleep(0.1)
        number = port.read_text().split()[0]
        self._session = aiohttp.ClientSession(trust_env=False)
        async with self._session.get(f"http://127.0.0.1:{number}/json") as answer:
            [page, *_] = [p for p in await answer.json() if p["type"] == "page"]
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        await self._ask("Page.enable")
        await self._ask(
            "Emulation.setDeviceMetricsOverride",
            width=self._width, height=900, deviceScaleFactor=1, mobile=self._width < 500,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if self._dark else "light"}
        await self._ask("Emulation.setEmulatedMedia", features=[scheme])

    async def _ask(self, method: str, **parameters: object) -> dict:
        self._number += 1
        number = self._number
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            said = json.loads((await self._socket.receive()).data)
            if said.get("id") == number:
                return said.get("result", said)

    def open(self, url: str) -> None:
        """Opens a page. It may not be complete yet: see `wait`."""
        self._loop.run_until_complete(self._ask("Page.navigate", url=url))

    def run(self, script: str) -> object:
        """The value of an expression, or of an async function's call, in the page."""
        said = self._loop.run_until_complete(
            self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        )
        assert "exceptionDetails" not in said, said
        return said["result"].get("value")

    def wait(self, condition: str, seconds: float = 120) -> None:
        """Waits until an expression is true in the page."""
        ends = time.monotonic() + seconds
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < ends, f"never true in the page: {condition}"
            time.sleep(0.2)

    def type(self, box: str, text: str) -> None:
        """Types a text into the text box with this label, in place of what it holds."""
        self.run(
            f"""(() => {{
              const box = [...document.querySelectorAll("label")]
                .find((l) => l.textContent.trim().startsWith({json.dumps(box)}))
                .querySelector("textarea, input");
              box.focus();
              const kind = box.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
              Object.getOwnPropertyDescriptor(kind.prototype, "value")
                .set.call(box, {json.dumps(text)});
              box.dispatchEvent(new Event("input", {{ bubbles: true }}));
            }})()"""
        )

    def press(self, key: str, ctrl: bool = False) -> None:
        """Presses a key where the focus is."""
        options = json.dumps({"key": key, "ctrlKey": ctrl, "bubbles": True, "cancelable": True})
        self.run(f"document.activeElement.dispatchEvent(new KeyboardEvent('keydown', {options}))")

    def low_contrast(self) -> list[str]:
        """The texts and the borders of text boxes with too little contrast (WCAG 2.2, AA).

        What still fades in is waited for.
        """
        ends = time.monotonic() + 20
        while (found := self.run(LOW_CONTRAST)) and time.monotonic() < ends:
            time.sleep(0.2)
        return found

    def picture(self, path: Path, most: int = 4000) -> None:
        """Writes a PNG of the whole page, at most so many pixels high."""
        height = min(int(str(self.run("document.documentElement.scrollHeight"))), most)
        clip = {"x": 0, "y": 0, "width": self._width, "height": height, "scale": 1}
        said = self._loop.run_until_complete(
            self._ask("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)
        )
        path.write_bytes(base64.b64decode(said["data"]))
