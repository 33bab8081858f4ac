"""Imported by the server of forks, so that no fork does again what each command does first."""

import gc
import io

import datasets  # noqa: F401
import sentence_transformers  # noqa: F401
import wandb.sdk.launch  # noqa: F401  # each run imports it
from hydra import compose, initialize_config_dir
from matplotlib.figure import Figure
from sklearn.linear_model import Ridge
from transformers.conversion_mapping import get_checkpoint_conversion_mapping

import prompt_recovery.commands.train  # noqa: F401
from prompt_recovery.changes.language import detector
from prompt_recovery.data.splits import normalise
from prompt_recovery.settings.folder import config_folder

with initialize_config_dir(str(config_folder()), version_base="1.3"):
    # ANTLR learns Hydra's grammar while it reads.
    compose("train", ["model=tiny", "name='a b'", "split.val=0.1", "+a=[b.c,{d: 1e-3}]"])
get_checkpoint_conversion_mapping("llama")  # compiles a thousand regular expressions
Ridge().fit([[0.0], [1.0]], [0.0, 1.0])  # looks for kinds of tables among all libraries
normalise("été")  # lists all marks of Unicode
detector().detect_language_of("It loads the languages when it is first asked")
figure = Figure()
figure.subplots().set_title("finds the fonts")
figure.savefig(io.BytesIO())
# Collections in the forks would otherwise touch, and so copy, every page of what is imported.
gc.collect()
gc.freeze()
