import importlib.util
import json
import sys

import pytest

from tests.conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("memory", ROOT / "docs" / "memory.py")
memory = importlib.util.module_from_spec(_SPEC)
sys.modules["memory"] = memory  # dataclasses look their module up
_SPEC.loader.exec_module(memory)


def test_the_tables_of_the_page_are_those_of_the_records():
    page = memory.PAGE.read_text(encoding="utf-8")
    assert memory.inserted(page) == page, "run: python docs/memory.py"


def test_the_numbers_of_parameters_are_those_of_the_runs():
    run = json.loads((ROOT / "experiments" / "starter_sft.metrics.json").read_text())
    [size] = [size for size in memory.SIZES if size.name == "smollm2"]
    trained = run["model/trainable_parameters"]
    assert size.parameters == run["model/parameters"] - trained
    assert size.lora * 0.4 == pytest.approx(trained), "lora_top adapts 0.4 of the layers"


def test_what_is_computed_is_below_what_was_measured():
    [size] = [size for size in memory.SIZES if size.name == "smollm2"]
    for record, path, said in memory.MEASURED:
        if "SmolLM2" in said or "smollm2" in said:
            assert min(memory.peaks(record, path)) * memory.GIB > size.training(2, 0.4)


def test_a_weight_takes_as_many_bytes_as_its_precision_has():
    size = memory.Size("x", 1000, 800, 10)
    assert size.training(4) == 4000 + 160
    assert size.training(2, 0.5) == 2000 + 80
    assert size.training(memory.NF4) == pytest.approx(800 * 0.5159 + 400 + 160, abs=0.1)
