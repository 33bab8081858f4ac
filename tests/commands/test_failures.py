import errno
import os
from types import SimpleNamespace

import pytest
from hydra.types import RunMode

from prompt_recovery.commands import failures
from prompt_recovery.runs.folder import RunFolder


def test_an_interrupted_run_is_gone_on_with_from_its_checkpoint_if_it_has_one(
    tmp_path, monkeypatch, capsys
):
    here = SimpleNamespace(mode=RunMode.RUN, runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(failures.HydraConfig, "get", lambda: here)

    def train(config):
        raise KeyboardInterrupt

    monkeypatch.setattr(
        failures.sys, "argv", ["train.py", "name=a b", "+ckpt_path=x", "ckpt_path=last"]
    )
    command = "python train.py 'name=a b'"
    begin = f"begin again, because it has no checkpoint yet: {command}\n"
    for advice in (begin, f"continue with: {command} ckpt_path=last\n"):
        with pytest.raises(SystemExit):
            failures.one_line_errors(train)(None)
        assert advice in capsys.readouterr().err
        file = RunFolder(tmp_path).checkpoint
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"")


def test_a_full_disk_or_a_read_only_folder_is_one_line():
    for number in (errno.ENOSPC, errno.EROFS, errno.EACCES):
        error = OSError(number, os.strerror(number), "runs/x")
        assert "cannot read or write runs/x (" in str(failures.unwritable(error))
    with pytest.raises(ConnectionError):
        failures.unwritable(ConnectionError(errno.ECONNRESET, "reset"))


@pytest.mark.parametrize("script", ["/usr/bin/prompt-recovery", "/src/prompt_recovery/__main__.py"])
def test_a_command_is_given_again_as_it_was_begun(script, tmp_path, monkeypatch):
    here = SimpleNamespace(mode=RunMode.RUN, runtime=SimpleNamespace(output_dir=str(tmp_path)))
    monkeypatch.setattr(failures.HydraConfig, "get", lambda: here)
    monkeypatch.setattr(failures.sys, "argv", [script, "model=tiny"])
    said = failures._how_to_go_on("train")
    again = "prompt-recovery train model=tiny"
    assert said == f"begin again, because it has no checkpoint yet: {again}"
