"""The pictures of the web page in the documentation."""

import importlib.util
import struct

import pytest

from tests.app.answering import READY
from tests.browser import needs_chromium
from tests.conftest import ROOT


@needs_chromium
def test_the_pictures_of_the_page_are_made(tmp_path, monkeypatch):
    pytest.importorskip("gradio")
    pytest.importorskip("aiohttp")
    monkeypatch.syspath_prepend(ROOT)
    spec = importlib.util.spec_from_file_location("app_images", ROOT / "docs" / "app_images.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    shown = {file.stem for file in (ROOT / "docs" / "images").glob("app*.png")}
    assert shown == set(made.PICTURES)
    made.take(READY, tmp_path, {"app_dark": made.PICTURES["app_dark"]})
    picture = (tmp_path / "app_dark.png").read_bytes()
    width, height = struct.unpack(">II", picture[16:24])
    assert picture[:4] == b"\x89PNG" and width == 1280 and 600 < height <= 1400
