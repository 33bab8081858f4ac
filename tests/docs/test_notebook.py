"""The notebook runs without a network, and shows what is stored in it."""

import importlib.util
import json
import re

import pytest

from tests.conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("notebooks", ROOT / "docs" / "notebooks.py")
notebooks = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(notebooks)
_NUMBER = re.compile(r"-?\d+\.\d+")


def shown(cell):
    """The text and the numbers of a cell's outputs, and the kinds of its pictures."""
    texts = ["".join(o.get("text", [])) + " ".join(o.get("data", {})) for o in cell["outputs"]]
    text = "\n".join(texts)
    return _NUMBER.sub("#", text), [float(n) for n in _NUMBER.findall(text)]


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.ipynb")), ids=lambda p: p.stem)
def test_notebooks_show_what_they_compute(path):
    stored = json.loads(path.read_text(encoding="utf-8"))
    for before, after in zip(stored["cells"], notebooks.run(stored)["cells"], strict=True):
        if before["cell_type"] != "code":
            continue
        assert before["execution_count"] == after["execution_count"]
        (text, numbers), (new_text, new_numbers) = shown(before), shown(after)
        assert text == new_text, "run: python docs/notebooks.py"
        assert numbers == pytest.approx(new_numbers, abs=0.011)
