"""Settings, each declared once: in the dataclass or the signature that uses it.

The declaration holds the type, the range, the default and the docstring. A YAML file in `conf/`
holds what differs from the default. When Hydra loads such a file, the defaults of its `_target_`
are filled in (`filling`), so that `--cfg job` shows every setting and an override needs no `+`.
A composed configuration is checked against the declarations before anything is loaded (`checking`),
and a dataclass that Python code constructs is checked by the same types (`declared.checked`).

The path of a setting from the command line to its use, and what is refused at each step:

1. `arguments.prepared` quotes paths and texts for Hydra's grammar. It refuses only a number where
   an option of a group is wanted, which would be a traceback in Hydra.
2. Hydra reads the files of `conf/` through its plugin `hydra_plugins/prompt_recovery_settings.py`,
   which calls `filling.fill`: defaults are added, and `???` for required settings.
3. Hydra parses the overrides and composes. It refuses what it cannot parse, options that no group
   has, and settings that the filled files do not have. `words.in_one_line` rewords its message.
4. `checking.check`, which each command calls first, refuses unknown and missing settings, and
   values of a wrong type or out of range, before anything heavy is imported.
5. `checking.make` calls the targets and constructs the dataclasses, which reads data where a target
   does. `declared.checked` refuses the same values as before, now for Python code, and
   `__post_init__` refuses settings that contradict each other.
6. Where a setting is used, what only the outside world can tell is refused: a file that does not
   exist, a model that is not installed.

`entries.option` takes the entries of a list, such as `baselines`, through steps 2 to 5.
`folder.config_folder` says where `conf/` lies.

Hydra's structured configs (and hydra-zen's `builds(populate_full_signature=True)`) were not chosen:
a `ConfigStore` wants every option of every group registered when a command starts, which would
import every target for `--help`, and OmegaConf's node types support no `Literal`, no ranges and
no unions of containers.
"""

from prompt_recovery.settings.declared import (
    AnyPath,
    AtLeastOne,
    Cosine,
    Count,
    IsPath,
    LocalPath,
    NotNegative,
    Positive,
    Precision,
    Share,
    checked,
)

__all__ = [
    "AnyPath",
    "AtLeastOne",
    "Cosine",
    "Count",
    "IsPath",
    "LocalPath",
    "NotNegative",
    "Positive",
    "Precision",
    "Share",
    "checked",
]
