import importlib
import re
import shlex
import sys

import pytest

from prompt_recovery.commands.main import COMMANDS, main
from prompt_recovery.settings.described import description
from prompt_recovery.settings.help import command_lines, help_text
from tests.conftest import ROOT
from tests.settings.composing import composed

HELPS = {c: importlib.import_module(f"prompt_recovery.commands.{c}")._HELP for c in COMMANDS}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_teaches_without_composing(command, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["prompt-recovery", command, "--help"])
    main()
    said = capsys.readouterr().out
    assert said == help_text(command, HELPS[command])
    assert said.startswith(f"prompt-recovery {command}: ")
    assert f"\n  prompt-recovery {command} " in said
    assert "Hydra" not in said
    assert max(len(line) for line in said.splitlines()) < 120


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_of_the_help_compose(command):
    for _, lines in HELPS[command].examples:
        for line in command_lines(command, lines):
            words = shlex.split(line.replace("\\\n", ""))
            values = [w for w in words[2:] if w != "-m"]
            if "-m" in words:
                values = [re.sub(r"^([^=]+=[^,\[]+),.*", r"\1", v) for v in values]
            # The texts of the two are quoted before Hydra sees them.
            if words[1] not in ("recover", "detect"):
                composed(words[1], *values, return_hydra_config=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_setting_is_shown_with_its_default_and_described(command):
    said = text(command).split("Settings that are often changed")[1]
    for setting in HELPS[command].settings:
        key = re.escape(setting.rpartition(":")[2])
        [told] = re.findall(rf"^  {key}=\S+\n?(.*)$", said, re.M)
        assert told.strip()
    for page in HELPS[command].read_on:
        assert (ROOT / page.partition(":")[0]).is_file()


def test_defaults_come_from_the_declarations_and_from_conf():
    assert re.search(r"^  trainer.max_steps=-1 +Maximum number", text("train"), re.M)
    assert re.search(r"^  decoding.samples=16 +The number of samples", text("recover"), re.M)
    assert "  output=runs/generate/<name>\n" in text("generate")
    assert re.search(r"^  file=<value> ", text("sweep"), re.M)


def test_the_help_of_the_page_lists_only_its_own_groups():
    groups = text("app").split("Groups (")[1]
    assert re.findall(r"^  (\w\S*)", groups, re.M)[:3] == ["decoding", "retrieval", "channel"]
    assert "trainer" not in text("app")
    assert re.search(r"^  retrieval +neighbours, null$", groups, re.M)


def test_the_help_lists_the_templates_that_a_command_is_meant_to_use():
    page = (ROOT / "docs" / "howto" / "templates.md").read_text("utf-8")
    ours, theirs = page.split("## Templates of the rewriter")
    for part, command, group in (
        (ours, "train", "template"),
        (ours, "evaluate", "template"),
        (theirs, "generate", "template"),
        (ours, "generate", "template@candidates.template"),
    ):
        [listed] = re.findall(rf"^  {group}\s+(\w+, .*)$", text(command), re.M)
        documented = re.findall(r"^\| `(\w+)`.*\|$", part.split("`template=`")[1], re.M)[:3]
        assert sorted(listed.split(", ")) == sorted(documented)


def text(command):
    return help_text(command, HELPS[command])


def test_descriptions_are_those_of_the_class_that_declares_a_field():
    class Base:
        """A base.

        Attributes:
            first: One. Two, or None. Three. Four.
            second: Over
                two lines.
        """

    class Derived(Base):
        """Another.

        Attributes:
            third: Own.
        """

    assert description(Derived, "first") == "One. Two, or null. Three."
    assert description(Derived, "second") == "Over two lines."
    assert description(Derived, "third") == "Own."
    assert description(Derived, "fourth") == ""
