"""Settings, each declared once: in the dataclass or the signature that uses it.

The declaration holds the type, the range, the default and the docstring. A YAML file in `conf/`
holds what differs from the default. When Hydra loads such a file, the defaults of its `_target_`
are filled in (`filling`), so that `--cfg job` shows every setting and an override needs no `+`.
A composed configuration is checked against the declarations before anything is loaded (`checking`),
and a dataclass that Python code constructs is checked by the same types (`declared.checked`).

Hydra's structured configs (and hydra-zen's `builds(populate_full_signature=True)`) were not chosen:
a `ConfigStore` wants every option of every group registered when a command starts, which would
import every target for `--help`, and OmegaConf's node types know no `Literal`, no ranges and no
unions of containers.
"""

from prompt_recovery.settings.declared import (
    AnyPath,
    AtLeastOne,
    Cosine,
    Count,
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
    "LocalPath",
    "NotNegative",
    "Positive",
    "Precision",
    "Share",
    "checked",
]
