import shutil
from dataclasses import replace

import pytest
from safetensors.torch import load_file, save_file

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import MBR, Choice, Greedy
from prompt_recovery.recovery import assemble as assembling
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import splits_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.retrieval import Retrieval
from prompt_recovery.storage import cache_dir
from prompt_recovery.templates import Template

DECODING = MBR(4, 1.0, 4, combined=0)
CHANNEL = ChannelSettings(
    Backbone("tiny", architecture="gemma"),
    template=Template("t", "{{ original_text }}\n{{ rewrite_prompt }}"),
    candidates=3,
    max_text_tokens=12,
)
CHOICE = Choice(4, 1.0, 4, candidates=3, combined=0)


@pytest.fixture
def run(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "run")


@pytest.mark.parametrize(
    ("decoding", "channel"),
    [(DECODING, None), (DECODING, CHANNEL), (CHOICE, None), (CHOICE, CHANNEL)],
)
def test_what_is_fitted_is_fitted_once(run, few_examples, decoding, channel):
    recipe = Recipe([run], decoding=decoding, channel=channel, precision="fp32")
    steps = []
    first = assemble(recipe, lambda *step: steps.append(step))
    assert steps[0][:2] == ("fitting the confidence", 0), "it is said before the first batch"
    titles = {title for title, _, _ in steps}
    assert len(titles) == (1 if (decoding, channel) == (DECODING, None) else 2)
    for title in titles:
        assert sum(n for step, n, _ in steps if step == title) == steps[0][2] > 0
    pairs = pairs_of(few_examples)[:6]
    predictions = first.recoverer.recover(pairs)
    assert [p.id for p in predictions] == [p.id for p in pairs]
    assert all(p.fallback or -1 <= p.confidence <= 1 for p in predictions)
    assert not all(p.fallback for p in predictions)

    again = assemble(recipe, lambda *step: pytest.fail("it was fitted before"))
    assert again.recoverer.recover(pairs) == predictions
    assert again.identity == first.identity
    changed = replace(decoding, samples=5)
    other = assemble(Recipe([run], decoding=changed, channel=channel, precision="fp32"))
    assert other.identity != first.identity


def test_without_a_validation_split_there_is_no_confidence(run, few_examples, caplog):
    (run / "config.yaml").unlink()
    ready = assemble(Recipe([run], decoding=DECODING))
    [prediction] = ready.recoverer.recover(pairs_of(few_examples)[:1])
    assert prediction.confidence is None
    assert "no confidence" in caplog.text
    with pytest.raises(PromptRecoveryError, match="give channel.exponent="):
        assemble(Recipe([run], decoding=DECODING, channel=CHANNEL))
    with pytest.raises(PromptRecoveryError, match="give decoding=mbr and channel.exponent="):
        assemble(Recipe([run], decoding=CHOICE, channel=CHANNEL))
    given = assemble(Recipe([run], DECODING, channel=replace(CHANNEL, exponent=0.1)))
    assert given.recoverer.choice.weights == {"prior": 1.0, "channel": 0.1}
    plain = assemble(Recipe([run], decoding=CHOICE))
    assert "plain MBR answers" in caplog.text
    assert plain.recoverer.recover(pairs_of(few_examples)[:1]) == [prediction]


def test_an_ensemble_asks_for_the_samples_of_its_members(run, tmp_path, few_examples):
    other = shutil.copytree(run, tmp_path / "other")
    path = other / "adapter" / "adapter_model.safetensors"
    save_file({n: w * 2 for n, w in load_file(path).items()}, path, {"format": "pt"})
    pairs = pairs_of(few_examples)[:4]

    def said(*runs):
        recipe = Recipe(runs, DECODING, retrieval=None, precision="fp32", confidence=False)
        ready = assemble(recipe).recoverer
        found = ready.said(pairs)
        return [[found[i][n] for i in found] for n in range(len(ready.sources))]

    [first], [second] = said(run), said(other)
    assert said(run, other) == [first, second] and said(other, run) == [second, first]
    once, again = said(run, run)
    assert once == first and again != first


def test_what_is_fitted_with_a_channel_is_for_its_weights(run, tmp_path):
    folder = shutil.copytree(tiny_backbone("gemma"), tmp_path / "rewriter")
    channel = replace(CHANNEL, backbone=Backbone("rewriter", path=str(folder)), exponent=0.1)
    recipe = Recipe([run], DECODING, channel=channel, precision="fp32")
    first = assemble(recipe).identity
    weights = load_file(folder / "model.safetensors")
    save_file(
        {n: w * 2 for n, w in weights.items()}, folder / "model.safetensors", {"format": "pt"}
    )
    assert assemble(recipe).identity != first


def test_a_channel_chooses_by_its_exponents(run, few_examples):
    """With all the weight on the channel, the candidate that it likes best answers."""
    sure = replace(CHANNEL, exponent=1e3, prior=0.0)
    ready = assemble(Recipe([run], DECODING, channel=sure, precision="fp32"))
    pairs = pairs_of(few_examples)[:6]
    predictions = ready.recoverer.recover(pairs)
    assert sum(not p.fallback for p in predictions) > 2
    for pair, prediction in zip(pairs, predictions, strict=True):
        if prediction.fallback:
            continue
        assert 1 <= len(prediction.candidates) <= 3
        texts = [c.text for c in prediction.candidates]
        values = ready.recoverer.channel(pair, texts)
        assert prediction.rewrite_prompt == texts[values.index(max(values))]
        assert prediction.confidence is not None


def test_a_channel_needs_candidates(run):
    with pytest.raises(PromptRecoveryError, match="decoding=greedy does not know: take decoding="):
        assemble(Recipe([run], decoding=Greedy(4), channel=CHANNEL))
    with pytest.raises(PromptRecoveryError, match="is for decoding=mbr"):
        assemble(Recipe([run], decoding=CHOICE, channel=replace(CHANNEL, exponent=0.1)))


def test_a_missing_backbone_is_found_before_anything_is_loaded(run, tmp_path, monkeypatch):
    monkeypatch.setattr(assembling, "load_sources", lambda *_: pytest.fail("it is loaded"))
    gone = replace(CHANNEL, backbone=Backbone("gone", package="no_such_weights"))
    with pytest.raises(PromptRecoveryError, match="needs the weights package 'no_such_weights"):
        assemble(Recipe([run], decoding=DECODING, channel=gone))
    second = shutil.copytree(run, tmp_path / "second")
    record = second / "adapter" / "recoverer.yaml"
    record.write_text(record.read_text().replace(str(cache_dir("tiny")), "/moved"))
    with pytest.raises(PromptRecoveryError, match="second/adapter: its backbone is no longer in "):
        assemble(Recipe([run, second], decoding=DECODING))


def test_several_runs_choose_together(run, few_examples, tmp_path):
    second = shutil.copytree(run, tmp_path / "second")
    pairs = pairs_of(few_examples)[:4]
    ready = assemble(Recipe([run, second], DECODING, weights=[2, 1], precision="fp32"))
    done = []
    predictions = ready.recoverer.recover(pairs, done.append)
    assert sum(done) == len(pairs)
    single = assemble(Recipe([run], decoding=DECODING, precision="fp32")).recoverer.recover(pairs)
    for together, alone in zip(predictions, single, strict=True):
        assert together.id == alone.id
        assert {c.text for c in alone.candidates} <= {c.text for c in together.candidates}
        assert len(together.candidates) > len(alone.candidates)  # the second draws its own samples
    assert any(p.confidence is not None for p in predictions)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Recipe([]), "at least one run"),
        (
            lambda: Recipe(["a", "b"], decoding=Greedy()),
            "a decoding that uses the metric, such as decoding=mbr",
        ),
        (
            lambda: Recipe(["a"], DECODING, weights=[1, 2]),
            r"weights=\[1, 2\]: give one for each of the 1",
        ),
        (lambda: Recipe(["a", "b"], decoding=DECODING, backbone_path="x"), "for one run"),
    ],
)
def test_impossible_recipes(make, message):
    with pytest.raises(PromptRecoveryError, match=message):
        make()


def test_similar_training_examples_choose_with_a_run(run, few_examples, caplog):
    asked = Recipe(
        [run], decoding=DECODING, precision="fp32", retrieval=Retrieval(k=3, weight=50.0)
    )
    ready = assemble(asked)
    pairs = pairs_of(few_examples)[:4]
    predictions = ready.recoverer.recover(pairs)
    training = {e.rewrite_prompt for e in splits_of(run / "adapter").train}
    for prediction in predictions:
        assert prediction.rewrite_prompt in training, "the weight is overwhelming"
        assert prediction.confidence is not None
        alone = [c for c in prediction.candidates if c.log_probability is None]
        assert 1 <= len(alone) <= 3
    assert assemble(asked).recoverer.recover(pairs) == predictions
    plain = assemble(Recipe([run], decoding=DECODING, precision="fp32"))
    assert plain.identity != ready.identity
    lighter = replace(asked, retrieval=Retrieval(k=3, weight=1.0), confidence=False)
    assert assemble(lighter).identity != assemble(replace(asked, confidence=False)).identity
    assert assemble(Recipe([run], decoding=Greedy(4), retrieval=Retrieval())).recoverer.name == (
        assemble(Recipe([run], decoding=Greedy(4))).recoverer.name
    ), "greedy answers hold no election"

    (run / "config.yaml").unlink()
    caplog.clear()
    without = assemble(asked)
    assert "no neighbours vote" in caplog.text
    assert [p.rewrite_prompt for p in without.recoverer.recover(pairs)] == [
        p.rewrite_prompt for p in plain.recoverer.recover(pairs)
    ]
