"""How a bank's prompts change a text, as a reason to choose one."""

from dataclasses import replace

import numpy as np
import pytest

from prompt_recovery.changes.form import pair_form
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.retriever import FORM_WEIGHT, PairEncoder, Retriever, fit_form

SHOUT, LIST, CUT = "Shout it", "Make a list of it", "Cut it down to one sentence"
TEXT = "The ferry leaves at dawn. It is back by noon, and dogs travel free of charge. {} it is."


def rewritten(prompt, text):
    words = text.split()
    if prompt == SHOUT:
        return text.upper().replace(".", "!!!")
    if prompt == LIST:
        return "\n".join(f"- {word}" for word in words)
    return " ".join(words[:4]) + "."


def example(number, prompt):
    text = TEXT.format("Word " * (number + 1))
    return RewriteExample(f"{number}{prompt}", text, rewritten(prompt, text), prompt)


EXAMPLES = [example(n, prompt) for n in range(4) for prompt in (SHOUT, LIST, CUT)]


@pytest.fixture
def form():
    return BankForm.of(EXAMPLES)


def pair_of(prompt):
    text = "Our meeting is on Tuesday. Please bring the figures for May, and tell Ana about it."
    return Pair("1", text, rewritten(prompt, text))


def test_a_pair_is_most_like_those_of_its_own_prompt(form):
    assert list(form.prompts) == [SHOUT, LIST, CUT]
    posterior = Posterior.of_weights([CUT, LIST, SHOUT, "never seen"], [0.4, 0.3, 0.2, 0.1])
    for prompt in (SHOUT, LIST, CUT):
        [own] = form.measured([pair_of(prompt)])
        found = form.with_weight(4.0).reweighted(posterior, own)
        assert found.texts[int(np.argmax(found.weights))] == prompt
        assert sum(found.votes) == pytest.approx(sum(posterior.votes))
        unlike = form.with_weight(4.0).reweighted(posterior, own, familiarity=0.0)
        assert unlike.votes == pytest.approx(posterior.votes), "an unfamiliar pair isn't judged"
        half = form.with_weight(4.0).reweighted(posterior, own, familiarity=0.5)
        assert half.votes == pytest.approx(form.with_weight(2.0).reweighted(posterior, own).votes)
        same = form.reweighted(posterior, own)
        assert same.votes == pytest.approx(posterior.votes), "a weight of 0 changes nothing"


def test_it_is_read_as_it_was_written(form, tmp_path):
    path = tmp_path / "form.npz"
    assert BankForm.read(path, form.prompts) is None
    form.with_weight(2.0).write(path)
    read = BankForm.read(path, form.prompts)
    assert read.identity == form.with_weight(2.0).identity != form.identity
    assert read.weight == 2.0


def damaged(path, **changes):
    with np.load(path) as file:
        np.savez(path, **{**{name: file[name] for name in file.files}, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"rows": np.zeros((3, 2))},
        {"mean": np.full(44, np.nan)},
        {"deviation": np.zeros(44)},
        {"weight": np.array(-1.0)},
        {"weight": np.array(np.nan)},
        {"names": np.array(["height"])},
        {"prompts": np.array("of another bank")},
        {"rows": np.array([{"a": 1}], dtype=object)},
    ],
)
def test_a_file_from_a_stranger_is_checked(changes, form, tmp_path):
    path = tmp_path / "form.npz"
    form.write(path)
    damaged(path, **changes)
    with pytest.raises(
        PromptRecoveryError, match=r"form\.npz: is damaged, or belongs to other prompts"
    ):
        BankForm.read(path, form.prompts)
    path.write_bytes(b"no archive")
    with pytest.raises(PromptRecoveryError, match="delete this file to do without it"):
        BankForm.read(path, form.prompts)


def test_its_weight_stays_unless_another_is_clearly_better(form, scs):
    prompts = [SHOUT, LIST, CUT]
    retriever = Retriever(PairEncoder(None), PromptBank.of(prompts, scs.encoder), 0.5)
    pairs = [pair_of(prompt) for prompt in prompts * 3]
    blind = np.repeat(scs.encoder.embed(["Something else"]), len(pairs), 0)
    weight = fit_form(retriever, form, blind, pairs, prompts * 3, scs)
    assert weight == FORM_WEIGHT
    misleading = [LIST, CUT, SHOUT] * 3
    assert fit_form(retriever, form, blind, pairs, misleading, scs) == 0


def test_a_retriever_goes_by_it(form, scs, monkeypatch):
    bank = PromptBank.of([SHOUT, LIST, CUT], scs.encoder)
    plain = Retriever(PairEncoder(None), bank, 0.5)
    weighed = Retriever(PairEncoder(None), bank, 0.5, form=form.with_weight(8.0))
    assert plain.settings.keys() < weighed.settings.keys()
    vector = scs.encoder.embed(["Something else"])
    monkeypatch.setattr(PairEncoder, "embed", lambda _, pairs, __: np.repeat(vector, len(pairs), 0))
    asked = [pair_of(CUT), Pair("2", "blank", " ")]
    before, after = (source.posteriors(asked, None) for source in (plain, weighed))
    assert before.keys() == after.keys() == {0}
    place = after[0].texts.index(CUT)
    unfamiliar = replace(weighed, known=lambda pairs: np.zeros(len(pairs)))
    [unmoved] = unfamiliar.posteriors(asked, None).values()
    assert unmoved.votes == pytest.approx(before[0].votes)
    assert after[0].weights[place] > max(0.7, before[0].weights[place])
    assert after[0].embeddings[0].votes == before[0].embeddings[0].votes


@pytest.mark.parametrize("text", ["", " \n", "\ud800", "!!!", "a" * 50_000, "你好。" * 100])
def test_all_texts_can_be_measured(text, form):
    assert all(np.isfinite(value) for value in pair_form(text, text).values())
    assert np.isfinite(form.measured([Pair("1", text, "b"), Pair("2", "b", text)])).all()
