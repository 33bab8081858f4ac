"""Paths and texts are taken verbatim."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings.arguments import override_value, prepared, quoted
from tests.settings.composing import composed

PATHS = [
    "données/été (1).csv", "a=b.csv", "x,y.csv", "[1].csv", "it's.csv", "a b.csv", "{a: b}.csv",
    "a\\b.csv", "${x}.csv", "\\${x}.csv", "a'", "end\\", "~a,b", "'a' and 'b'.csv", 'say "x".csv',
]  # fmt: skip


def read_back(argument):
    [override] = OverridesParser.create().parse_overrides([argument])
    config = OmegaConf.create({"value": override.value()})
    return OmegaConf.to_container(config, resolve=True)["value"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("command", "before", "key"),
    [
        ("train", ["data=file"], "data.path"),
        ("train", [], "model.path"),
        ("train", [], "start"),
        ("recover", [], "run"),
        ("recover", ["channel=rewriter"], "channel.backbone.path"),
        ("evaluate", ["data@training=folder"], "training.path"),
        ("generate", [], "instructions.bank"),
        ("generate", [], "candidates.start"),
        ("sweep", [], "file"),
        ("train", [], "metric.encoder.source.path"),
        ("train", [], "+first_stage.preferences.path"),
        ("generate", [], "rewriter.model.path"),
    ],
)
def test_paths_are_verbatim(command, before, key, path):
    [*_, argument] = prepared(command, [*before, f"{key}={path}"])
    assert read_back(argument) == path


@pytest.mark.parametrize(
    "setting",
    ["recover input", "recover output", "recover backbone_path", "recover bank", "compare runs",
     "sweep folder", "evaluate output", "evaluate recoverers", "evaluate predictions",
     "train ckpt_path", "train preferences.path", "generate output", "app run"],
)  # fmt: skip
def test_paths_of_all_commands_are_verbatim(setting):
    command, key = setting.split()
    path = "données/a=b, [1] (2) it's.csv"
    [argument] = prepared(command, [f"{key}={path}"])
    assert read_back(argument) == path


def test_urls_are_verbatim_but_for_interpolations():
    for url in ("http://user:it's@h/v1?a=b,c&d={e}", "https://h:1/v1?api-version=2024-10-21"):
        [argument] = prepared("train", [f"preferences.api.base_url={url}"])
        assert read_back(argument) == url
    for left in ("preferences.api.base_url=http://${oc.env:HOST}/v1", "name=http"):
        assert prepared("train", [left]) == [left]


@pytest.mark.parametrize("path", [p for p in PATHS if "${" not in p])
@pytest.mark.parametrize("key", ["hydra.run.dir", "hydra.sweep.dir"])
def test_the_folders_of_runs_are_verbatim_but_for_interpolations(key, path):
    [argument] = prepared("train", [f"{key}={path}"])
    assert read_back(argument) == path
    dated = f"{key}=runs/${{now:%Y}}"
    assert prepared("train", [dated]) == [dated]


@pytest.mark.parametrize("value", ["3", "1.5", "true", "[1]", "[1,2]", "-1"])
def test_a_number_is_no_option_of_a_group(value):
    for group in ("trainer", "model@retriever.model", "+experiment"):
        with pytest.raises(PromptRecoveryError, match="there is no such option; use one of"):
            prepared("train", [f"{group}={value}"])


@pytest.mark.parametrize(
    ("value", "hydras"),
    [
        (None, "null"),
        (1e-5, "1e-05"),
        ("1e-5", "1e-5"),
        (True, "True"),
        ("a,b", "'a,b'"),
        ("it's", "'it\\'s'"),
        ("", "''"),
        ("${x}", "'\\${x}'"),
        ([1, None, "a b"], "[1,null,'a b']"),
        ({"a": {"b": "c d"}}, "{a:{b:'c d'}}"),
    ],
)
def test_values_in_the_grammar_of_overrides(value, hydras):
    assert override_value(value) == hydras
    read = read_back(f"value={hydras}")
    assert read == (1e-5 if value == "1e-5" else value)


@pytest.mark.parametrize("path", PATHS[:5])
def test_a_path_reaches_the_configuration(path):
    config = composed("train", *prepared("train", ["data=file", f"data.path={path}"]))
    assert config.data.path == path


@settings(deadline=None)
@given(st.text(st.characters(codec="utf-8", exclude_characters="\0")))
def test_every_text_is_verbatim(text):
    assert read_back(f"value={quoted(text)}") == text
    [argument] = prepared("recover", [f"original={text}"])
    assert read_back(argument) == text


def test_lists_quotes_and_sweeps_remain_hydras():
    assert prepared("recover", ["run=[a,b]"]) == ["run=[a,b]"]
    assert prepared("train", ["data.path='a b.csv'"]) == ["data.path='a b.csv'"]
    assert prepared("train", ["-m", "start=a,b"]) == ["-m", "start=a,b"]
    assert prepared("train", ["-m", "start=a b"]) == ["-m", "start='a b'"]
    assert prepared("train", ["seed=1,2", "tags=[a b]"]) == ["seed=1,2", "tags=[a b]"]
    assert prepared("recover", ["channel=null"]) == ["~channel"]


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (["--original", "a b"], "original='a b'"),
        (["--original=a"], "original=a"),
        (["--backbone-path", "x=1"], "backbone_path=<value>"),
        (["--input"], "input=<value>"),
    ],
)
def test_settings_with_dashes_are_one_line(given, advice):
    with pytest.raises(PromptRecoveryError, match=f"without dashes .*: give {advice}$"):
        prepared("recover", given)


@pytest.mark.parametrize(
    ("command", "given", "told"),
    [
        ("train", ["-m", "seed=1,2", "--cfg", "job"], "--cfg shows the settings of one run"),
        ("train", ["retriever.model=mpnet"], "retriever.model=mpnet: give model@retriever.model="),
        ("recover", ["orginal=It rains, a lot (yes); 'no'"], "orginal: .* did you mean original?"),
        ("train", ["sead=1, 2 (3)"], "sead: there is no such setting; did you mean seed?"),
    ],
)
def test_what_hydra_would_say_unclearly_is_said_before(command, given, told):
    with pytest.raises(PromptRecoveryError, match=told):
        prepared(command, given)


def test_no_arguments_are_fine():
    assert prepared("train", []) == []


def test_options_of_hydra_keep_their_dashes():
    inner = ["model@retriever.model=mpnet", "hydra/launcher=joblib"]
    assert prepared("train", inner) == inner
    given = ["--cfg", "job", "--resolve", "--config-dir=x", "--", "model=tiny", "--info"]
    assert prepared("train", given) == given
