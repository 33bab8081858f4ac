"""Which rewriter a channel asks if none is named."""

import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery import rewriter
from prompt_recovery.recovery.assemble import assemble
from prompt_recovery.recovery.channel import ChannelSettings
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.recovery.rewriter import with_rewriter
from prompt_recovery.settings.checking import check, make
from prompt_recovery.templates import Template
from tests.settings.composing import composed

TEMPLATE = Template("t", "{{ original_text }}\n{{ rewrite_prompt }}")
CHANNEL = ChannelSettings(template=TEMPLATE, exponent=0.1, candidates=3, max_text_tokens=12)


@pytest.fixture
def chosen(few_examples, trained_run, monkeypatch, caplog):
    """The channel's model if the rows of the run's data name these rewriters, and the log."""

    def chosen(*names, channel=CHANNEL):
        rows = [replace(e, rewriter=n) for e, n in zip(few_examples, names, strict=False)]
        splits = SimpleNamespace(train=rows[:-1], val=rows[-1:], test=[])
        monkeypatch.setattr(rewriter, "splits_of", lambda _: splits)
        caplog.clear()
        with caplog.at_level(logging.INFO):
            found = with_rewriter(Recipe([trained_run], MBR(4, 1.0, 4), channel=channel))
        return found.channel.backbone, caplog.text

    return chosen


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("tiny", Backbone("tiny", architecture="llama")),
        ("SmolLM2-135M-Instruct", "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("qwen2.5-coder-1.5b-instruct ", "Qwen/Qwen2.5-Coder-1.5B-Instruct"),
        ("gemma-7b-it", "google/gemma-7b-it"),
        ("gemma-2b-it", "google/gemma-2b-it"),  # only among the rewriters
    ],
)
def test_it_is_the_model_that_rewrote_the_texts(chosen, monkeypatch, name, backbone):
    monkeypatch.setattr(rewriter, "locate", lambda _: None)
    found, said = chosen(name, name, "another")
    assert backbone in (found, found.repo)
    assert f"channel: {found.name}, which rewrote the texts that run was trained on" in said


def test_otherwise_it_is_the_default_and_the_log_says_why(chosen, monkeypatch):
    for names, why in (
        (["", "", "tiny"], "does not name a rewriter for most rows"),
        (["tiny", "gemma-7b-it"], "does not name a rewriter for most rows"),
        (["gpt-4o"] * 3, "no model in conf/ is called 'gpt-4o'"),
    ):
        found, said = chosen(*names)
        assert found.name == "smollm2"
        assert said.count("\n") == 1 and "channel: smollm2, since" in said and why in said

    def missing(backbone):
        raise PromptRecoveryError(f"{backbone.name} is not installed")

    monkeypatch.setattr(rewriter, "locate", missing)
    found, said = chosen(*["gemma-7b-it"] * 3)
    assert found.name == "smollm2" and "since gemma is not installed; model@channel" in said


def test_a_model_that_is_named_is_taken(chosen):
    named = replace(CHANNEL, backbone=Backbone("mine", path="folder"))
    found, said = chosen("tiny", "tiny", channel=named)
    assert found is named.backbone and not said
    assert with_rewriter(Recipe(["x"])) == Recipe(["x"])


def test_the_configuration_leaves_it_open():
    for arguments, backbone in (
        ([], None),
        (["model@channel.backbone=tiny"], Backbone("tiny", architecture="llama")),
    ):
        config = composed("recover", "channel=rewriter", *arguments).channel
        settings = make(check(config, ChannelSettings), ChannelSettings)
        assert settings.backbone == backbone and settings.template.name == "rewrite_text_first"


def test_a_recoverer_asks_it(chosen, trained_run, few_examples):
    chosen("tiny", "tiny")
    recipe = Recipe([trained_run], MBR(4, 1.0, 4), channel=CHANNEL, precision="fp32")
    named = replace(recipe, channel=replace(CHANNEL, backbone=Backbone("t", architecture="llama")))
    recoverer = assemble(replace(recipe, confidence=False)).recoverer
    assert recoverer.channel.identity == assemble(named).recoverer.channel.identity
