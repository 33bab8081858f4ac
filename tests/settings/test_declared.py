"""What declarations say, and who refuses what they do not allow."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import pytest
import yaml

from prompt_recovery.backbones.low_rank import Adapter
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import AtLeastOne, Share, checked
from prompt_recovery.settings.declared import dataclass_in, settings_of, target_of
from prompt_recovery.settings.filling import OURS, schema_of
from prompt_recovery.settings.folder import config_folder

HEAVY = (
    "torch", "transformers", "lightning", "peft", "sentence_transformers", "sklearn", "wandb",
    "pandas", "matplotlib", "ray", "datasets", "scipy",
)  # fmt: skip


def files():
    found = sorted(config_folder().glob("**/*.yaml"))
    kept = [f for f in found if f.relative_to(config_folder()).parts[0] not in ("hydra",)]
    return [f for f in kept if "experiment" not in f.relative_to(config_folder()).parts]


def repeated(node, target, prefix=""):
    """Keys of a YAML node whose value is the declared default."""
    for name, setting in settings_of(target).items():
        if name not in node:
            continue
        value, kind = node[name], dataclass_in(setting.type)
        if isinstance(value, Mapping) and "_target_" in value:
            yield from repeated(value, target_of(value["_target_"]), f"{prefix}{name}.")
        elif isinstance(value, Mapping) and kind is not None:
            yield from repeated(value, kind, f"{prefix}{name}.")
        elif setting.fillable and value == setting.default:
            yield f"{prefix}{name}"


@pytest.mark.parametrize("path", files(), ids=lambda p: str(p.relative_to(config_folder())))
def test_no_default_is_declared_twice(path):
    text = path.read_text(encoding="utf-8")
    node = yaml.safe_load(text)
    target = schema_of(text) or node.get("_target_")
    if target is None:
        leaves_out = all(value is None for value in node.values())
        assert "defaults" in node or leaves_out, f"{path}: names neither target nor base"
        return
    assert target.startswith(OURS)
    assert list(repeated(node, target_of(target))) == []


def test_declarations_are_read_without_anything_heavy():
    code = """
import sys
from prompt_recovery.settings.declared import settings_of, target_of
for name in sys.argv[2:]:
    settings_of(target_of(name))
print([m for m in sys.argv[1].split() if m in sys.modules])
"""
    texts = [path.read_text(encoding="utf-8") for path in files()]
    targets = {
        t for text in texts for t in re.findall(r"_target_: (prompt_recovery\.[\w.]+)", text)
    }
    targets |= {schema for text in texts if (schema := schema_of(text))}
    result = subprocess.run(
        [sys.executable, "-c", code, " ".join(HEAVY), *sorted(targets)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == "[]"
    assert len(targets) > 50


@checked("group")
@dataclass(frozen=True)
class Example:
    count: AtLeastOne = 1
    share: Share | None = None
    words: str = "a"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"count": 0}, "group.count=0: must be ≥ 1"),
        ({"count": 1.5}, "group.count=1.5: must be a whole number ≥ 1"),
        ({"count": True}, "group.count=true: must be a whole number ≥ 1"),
        ({"share": 2}, r"group.share=2: must be in \[0, 1\] or null"),
        ({"share": float("nan")}, r"group.share=nan: must be a number in \[0, 1\] or null"),
        ({"words": None}, "group.words=null: must be a text"),
    ],
)
def test_python_code_is_refused_the_same_values(options, message):
    with pytest.raises(PromptRecoveryError, match=message):
        Example(**options)
    assert Example(2, 0.5).share == 0.5


def test_positions_are_checked_too():
    with pytest.raises(PromptRecoveryError, match="adapter.rank=0: must be ≥ 1"):
        Adapter("lora", 0)


@dataclass(kw_only=True)
class Base:
    words: str = "a"


@checked("")
@dataclass
class Derived(Base):
    count: AtLeastOne


def test_positions_are_those_of_the_constructor():
    assert Derived(3).count == 3
    with pytest.raises(PromptRecoveryError, match="count=0: must be ≥ 1"):
        Derived(0)
