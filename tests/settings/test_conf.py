"""Every option of `conf/` composes: the options are found, not listed."""

import pytest
from omegaconf import OmegaConf

from prompt_recovery.settings.folder import config_folder
from tests.settings.composing import COMMANDS, composed, groups, options

# Where each group is chosen; `baseline` is composed by `evaluate` as its list of them says.
GROUPS_OF = {
    "train": (
        "adapter", "data", "decoding", "logger", "metric", "model", "objective", "preferences",
        "retriever", "template", "trainer",
    ),
    "generate": ("cluster", "originals", "preferences", "rewriter", "rewriter/backend"),
    "evaluate": ("baseline",),
    "recover": ("channel", "decoding", "retrieval"),
}  # fmt: skip


def test_every_group_is_composed_here():
    assert {group for chosen in GROUPS_OF.values() for group in chosen} == set(groups())
    roots = {path.stem for path in config_folder().glob("*.yaml")}
    assert roots == set(COMMANDS)


@pytest.mark.parametrize("model", options("model"))
def test_every_option_of_train_composes_with_every_backbone_and_every_trainer(model):
    """Several groups at a time: each turn takes the next option of each."""
    others = {g: options(g) for g in GROUPS_OF["train"] if g != "model"}
    first = options("model").index(model)
    for turn in range(max(map(len, others.values()))):
        chosen = {group: names[turn % len(names)] for group, names in others.items()}
        # A backbone meets every trainer from turn to turn; a turn, with its options of the other
        # groups, meets every trainer from backbone to backbone.
        trainers = others["trainer"]
        chosen |= {"model": model, "trainer": trainers[(first + turn) % len(trainers)]}
        overrides = [f"{group}={option}" for group, option in chosen.items()]
        config = composed("train", *overrides, return_hydra_config=True)
        assert config.model.name == model
        assert chosen.items() <= config.hydra.runtime.choices.items()


def test_there_are_enough_options_for_every_pair():
    """Of those that the test above makes."""
    turns = max(len(options(group)) for group in GROUPS_OF["train"] if group != "model")
    assert min(turns, len(options("model"))) >= len(options("trainer"))


@pytest.mark.parametrize(
    ("command", "group"),
    [(c, g) for c, chosen in GROUPS_OF.items() for g in chosen if c != "train"],
)
def test_every_option_composes(command, group):
    for option in options(group):
        at = f"+{group}@_chosen" if group == "baseline" else group
        config = composed(command, f"{at}={option}", return_hydra_config=True)
        assert config.hydra.runtime.choices[at.lstrip("+")] == option
        chosen = OmegaConf.select(
            config, "_chosen" if group == "baseline" else group.replace("/", ".")
        )
        assert chosen._target_.startswith("prompt_recovery.")


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_but_train_leave_no_files_of_hydra(command):
    hydra = composed(command, return_hydra_config=True).hydra
    assert hydra.job.chdir is False
    assert ("file" in hydra.job_logging.handlers) == (command == "train")
    if command != "train":
        assert hydra.run.dir == "."
        assert hydra.output_subdir is None


@pytest.mark.parametrize(
    ("given", "rate"),
    [([], 1.5e-3), (["start=old"], 3e-4), (["start=old", "optim.learning_rate=1.5e-3"], 1.5e-3),
     (["start=old", "model=minilm", "objective=contrastive", "retriever=none"], 1e-4)],
)  # fmt: skip
def test_weights_that_have_been_trained_take_smaller_steps(given, rate):
    assert composed("train", *given)["optim"]["learning_rate"] == rate
