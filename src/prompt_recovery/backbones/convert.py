"""Converts a GGUF file once to a folder in Hub format, which is kept in the cache."""

from pathlib import Path

from prompt_recovery.backbones.locate import Location
from prompt_recovery.backbones.small_gguf import converted_small
from prompt_recovery.storage import cache_dir, made_once
from prompt_recovery.terminal import announced


def converted(location: Location) -> Path:
    """A folder in Hub format: the location's own, or the bf16 safetensors made of its GGUF file.

    The conversion is done once, and kept in `backbones/` of the cache.

    Raises:
        PromptRecoveryError: If the GGUF file is damaged, or the disk has too little space.
    """
    if location.gguf_file is None:
        return location.folder
    target = cache_dir("backbones") / f"{Path(location.gguf_file).stem}-{location.identity}"

    def make(scratch: Path) -> None:
        file = location.folder / str(location.gguf_file)
        with announced(f"converting {location.gguf_file}, once"):
            if location.parts or not converted_small(file, scratch):
                from prompt_recovery.backbones.from_gguf import convert  # loads transformers

                convert(location, scratch, target)

    return made_once(target, "config.json", make)
