"""The recoverers that are in the package; there need not be any."""

import json
from importlib.util import find_spec

import numpy as np
import pytest

from prompt_recovery.recovery import MBR, Pair
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.load import load_retriever
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.runs.shipped import (
    DEFAULT,
    FOLDER,
    Manifest,
    digest_of,
    shipped_names,
    shipped_run,
)
from prompt_recovery.shipping.make import SAMPLE

NAMES = shipped_names() or [
    pytest.param("", marks=pytest.mark.skip(reason="this version ships no recoverer"))
]
pytestmark = [pytest.mark.embedded, pytest.mark.parametrize("name", NAMES)]


def _require_backbones(name):
    """Skips the test if the packages of its backbones, which may be extras, are not installed."""
    missing = [p for p in Manifest.read(FOLDER / name).packages if find_spec(p) is None]
    if missing:
        pytest.skip(f"needs the packages of the backbones of {name}: {', '.join(missing)}")


def test_its_files_are_whole_and_its_card_says_what_it_is(name):
    folder = FOLDER / name
    manifest = Manifest.read(folder)
    for file, digest in manifest.files.items():
        assert digest_of(manifest.file(folder, file)) == digest, file
    page = (folder / "README.md").read_text("utf-8")
    for heading in ("Recipe", "Results", "Limits", "Licence"):
        assert f"## {heading}\n" in page
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) < 45e6
    record = (folder / "config.yaml").read_text("utf-8")
    assert "/home/" not in record and "/root/" not in record and "/tmp/" not in record


def test_the_retriever_finds_the_same_prompts_on_every_machine(name, scs):
    _require_backbones(name)
    retriever = load_retriever(shipped_run(name) / "retriever", scs, "fp32")
    rows = json.loads((FOLDER / name / SAMPLE).read_text("utf-8"))
    assert len(rows) == 10
    pairs = [Pair(str(n), r["original_text"], r["rewritten_text"]) for n, r in enumerate(rows)]
    for row, predicted in zip(rows, retriever.encoder.embed(pairs), strict=True):
        expected = np.array(list(row["nearest"].values()))
        places = [list(retriever.bank.prompts).index(prompt) for prompt in row["nearest"]]
        cosines = retriever.bank.vectors @ predicted
        np.testing.assert_allclose(cosines[places], expected, atol=2e-3)
        assert cosines.max() < expected[0] + 2e-3, "nothing is nearer"
    # The embeddings that come with the prompts are those of the metric's encoder.
    some = retriever.bank.prompts[::500]
    np.testing.assert_allclose(scs.encoder.embed(some), retriever.bank.vectors[::500], atol=1e-3)


@pytest.mark.large
def test_it_answers_at_once(name, request):
    _require_backbones(name)
    if name != DEFAULT and "large" not in request.config.option.markexpr:
        pytest.skip("converts and reads a large model, which takes minutes: run it with -m large")
    recipe = Recipe([shipped_run(name)], MBR(samples=16), precision="fp32")
    ready = assemble(recipe, lambda *_: pytest.fail("it was fitted when it was made"))
    text = "Please return the borrowed ladder by Friday."
    [prediction] = ready.recoverer.recover([Pair("1", text, "Arr, bring back me ladder, ye dog!")])
    assert prediction.rewrite_prompt and not prediction.fallback
    assert prediction.confidence is not None and len(prediction.candidates) > 10
