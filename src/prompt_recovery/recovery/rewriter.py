"""Which rewriter model a channel asks if none is named: the one that rewrote the texts."""

import logging
from collections import Counter
from dataclasses import fields, replace
from functools import cache
from pathlib import Path

import yaml

from prompt_recovery.backbones.locate import Backbone, locate
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.load import splits_of
from prompt_recovery.recovery.recipe import Recipe
from prompt_recovery.runs.folder import recoverer_folders, run_name
from prompt_recovery.settings.folder import config_folder

log = logging.getLogger(__name__)

_DEFAULT = "smollm2"
_SOURCES = ("path", "architecture", "package", "repo")


def with_rewriter(recipe: Recipe) -> Recipe:
    """Returns the recipe with a backbone for its channel, if it has a channel without one.

    It is the model that rewrote the texts that the first run was trained on, if the dataset names
    one for most of its rows, and `conf/` names a model of that name which can be found. Otherwise
    it is SmolLM2. A line in the log says which, and why.
    """
    channel = recipe.channel
    if channel is None or channel.backbone is not None:
        return recipe
    try:
        backbone = _rewriter_of(recoverer_folders(recipe.runs[0])[0])
        why = f"which rewrote the texts that {run_name(recipe.runs[0])} was trained on"
    except PromptRecoveryError as error:
        backbone, why = _configured()[_DEFAULT], f"since {error}"
    log.info("channel: %s, %s; model@channel.backbone=<model> takes another", backbone.name, why)
    return replace(recipe, channel=replace(channel, backbone=backbone))


def _rewriter_of(folder: Path) -> Backbone:
    """The model that rewrote the texts that a recoverer was trained on.

    Raises:
        PromptRecoveryError: If it is not known, or cannot be found.
    """
    splits = splits_of(folder)
    named = Counter(e.rewriter for e in (*splits.train, *splits.val, *splits.test))
    [(name, count)] = named.most_common(1)
    if not name or 2 * count <= named.total():
        raise PromptRecoveryError(
            f"the data of {run_name(folder)} does not name a rewriter for most rows"
        )
    backbone = _configured().get(name.strip().lower())
    if backbone is None:
        raise PromptRecoveryError(f"no model in conf/ is called '{name}', as the rewriter is")
    locate(backbone)
    return backbone


@cache
def _configured() -> dict[str, Backbone]:
    """The language models in `conf/` by their names: those of their options and on the Hub."""
    found: dict[str, Backbone] = {}
    known = {field.name for field in fields(Backbone)}
    for group in ("model", "rewriter"):
        for file in sorted((config_folder() / group).glob("*.yaml")):
            values = yaml.safe_load(file.read_text("utf-8"))
            if group == "rewriter":
                values = values.get("model") or {}
            elif not values["_target_"].endswith(".Backbone"):  # a sentence encoder
                continue
            if any(values.get(source) for source in _SOURCES):
                backbone = Backbone(**{k: v for k, v in values.items() if k in known})
                for name in (file.stem, backbone.name, (backbone.repo or "").rpartition("/")[2]):
                    found.setdefault(name.lower(), backbone)
    return found
