import getpass
import os
import pwd
import tempfile
from pathlib import Path

import pytest

from prompt_recovery.commands.home import provide_home
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import cache_dir


@pytest.fixture
def homeless(monkeypatch, tmp_path):
    """A user id without an entry in /etc/passwd and without HOME, as in containers."""

    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "PROMPT_RECOVERY_CACHE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return tmp_path


def test_without_a_home_caches_are_in_the_temporary_folder(homeless, capsys):
    with pytest.raises(PromptRecoveryError, match="set PROMPT_RECOVERY_CACHE or HOME to a folder"):
        cache_dir("x")
    provide_home()
    home = homeless / f"prompt-recovery-{os.getuid()}"
    assert Path.home() == home
    assert home.stat().st_mode & 0o777 == 0o700
    assert cache_dir("x").is_relative_to(home)
    assert getpass.getuser() == f"user-{os.getuid()}"
    assert "set HOME, or PROMPT_RECOVERY_CACHE" in capsys.readouterr().err
    provide_home()
    assert capsys.readouterr().err == ""


def test_a_folder_that_somebody_else_made_is_no_home(homeless):
    (homeless / f"prompt-recovery-{os.getuid()}").symlink_to(homeless)
    with pytest.raises(PromptRecoveryError, match="set HOME to a folder that you can write to"):
        provide_home()
