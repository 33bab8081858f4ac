"""A home for processes that have none, such as those of `docker run --user 12345`."""

import getpass
import os
import stat
import sys
import tempfile
from pathlib import Path

from prompt_recovery.errors import PromptRecoveryError


def provide_home() -> None:
    """Sets `HOME` to a folder of this user in the temporary folder if there is no home.

    Libraries look for their caches there, and end with a traceback without it. The same holds for
    the user's name.

    Raises:
        PromptRecoveryError: If the folder cannot be made, or belongs to somebody else.
    """
    try:
        Path.home()
    except RuntimeError:
        folder = Path(tempfile.gettempdir()) / f"prompt-recovery-{os.getuid()}"
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            found = folder.lstat()
            private = stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
        except OSError:
            private = False
        if not private:
            raise PromptRecoveryError(
                f"there is no home folder, and {folder} cannot be used: set HOME to a folder that "
                "you can write to"
            ) from None
        os.environ["HOME"] = str(folder)
        print(
            f"there is no home folder: caches are in {folder}; set HOME, or PROMPT_RECOVERY_CACHE "
            "for this package's, to keep them",
            file=sys.stderr,
        )
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):
        os.environ["USER"] = f"user-{os.getuid()}"
