"""The command `prompt-recovery`."""

import difflib
import sys
from importlib import import_module

from prompt_recovery import __version__
from prompt_recovery.errors import printable
from prompt_recovery.runs.processes import is_first
from prompt_recovery.terminal import announce_start, forgive_characters

COMMANDS = ("train", "generate", "evaluate", "recover", "detect", "app", "sweep", "compare")
_HELP = """\
usage: prompt-recovery <command> [group=option] [key=value] …

  train     train a recoverer and evaluate it        prompt-recovery train model=mistral
  generate  make a dataset with a rewriter           prompt-recovery generate rows=1000
  evaluate  compare recoverers and baselines         prompt-recovery evaluate \\
                                                       recoverers=[runs/latest]
  recover   find the prompts of pairs of texts       prompt-recovery recover input=test.csv
  detect    judge whether an LLM rewrote a text      prompt-recovery detect text="…"
  app       serve a web page to try a recoverer      prompt-recovery app run=latest
  sweep     run a W&B sweep file locally             prompt-recovery sweep file=sweeps/grid.yaml
  compare   compare many runs in one report          prompt-recovery compare 'runs=[runs/train]'

prompt-recovery <command> --help       what it does, with examples, settings and options
prompt-recovery <command> --cfg job    all settings, including those that you give
prompt-recovery --version              the version of this package
"""


def main() -> None:
    """`prompt-recovery <command> …`."""
    if not is_first() and len(sys.argv) > 1 and sys.argv[1] not in COMMANDS:
        sys.argv.insert(1, "train")  # started by Lightning, with the arguments that Hydra saw
    if sys.argv[1:2] == ["--version"]:
        print(f"prompt-recovery {__version__}")
        return
    if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
        asked = len(sys.argv) < 2 or sys.argv[1] in ("-h", "--help", "help")
        forgive_characters()
        if asked:
            print(_HELP, end="")
            raise SystemExit(0)
        near = difflib.get_close_matches(sys.argv[1], COMMANDS, 1, 0.6)
        meant = f"did you mean {near[0]}? " if near else ""
        print(
            f"error: '{printable(sys.argv[1])}' is not a command; {meant}use one of "
            f"{', '.join(COMMANDS)} (prompt-recovery --help)",
            file=sys.stderr,
        )
        raise SystemExit(2)
    command = sys.argv.pop(1)
    if is_first():
        forgive_characters()
        announce_start(command)
    getattr(import_module(f"prompt_recovery.commands.{command}"), command)()
