import importlib.util

import pytest

from tests.conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("headline", ROOT / "docs" / "headline.py")
headline = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(headline)


def test_the_table_of_the_readme_is_that_of_the_records():
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert headline.inserted(page) == page, "run: python docs/headline.py"


def test_seeds_are_put_together():
    values = headline.found("mbr.report", "greedy")
    assert len(values) == 3
    assert sum(values) / 3 == pytest.approx(0.054, abs=5e-4)
    assert headline.found("no such.report", "greedy") == []
    assert "| 0.054 | 0.047 … 0.062 | 3 | `mbr.report.json` |" in headline.headline()
