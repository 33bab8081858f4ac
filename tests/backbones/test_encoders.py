import hashlib
import io
import zipfile

import pytest

from prompt_recovery.backbones import encoders
from prompt_recovery.backbones.encoders import EncoderBackbone, locate_encoder
from prompt_recovery.errors import PromptRecoveryError


@pytest.fixture
def backbone(tmp_path, monkeypatch):
    """Makes an encoder whose zip file, with these files, is in two parts."""
    monkeypatch.setenv("PROMPT_RECOVERY_CACHE", str(tmp_path / "cache"))

    def make(*names):
        content = io.BytesIO()
        with zipfile.ZipFile(content, "w") as whole:
            for name in names:
                whole.writestr(name, f"this is {name}")
        data = content.getvalue()
        parts = {"one": data[:100], "two": data[100:]}
        for name, part in parts.items():
            (tmp_path / name).write_bytes(part)
        monkeypatch.setattr(encoders, "_part", lambda name, backbone: tmp_path / name)
        return EncoderBackbone("m/1", parts=list(parts), sha256=hashlib.sha256(data).hexdigest())

    return make


def test_parts_become_a_folder_of_plain_files(backbone, tmp_path):
    made = backbone("a/m/modules.json", "a/m/1_Pooling/config.json", "a/m/run.py", "other.json")
    folder = locate_encoder(made).folder
    files = {p.relative_to(folder).as_posix(): p for p in folder.rglob("*") if p.is_file()}
    assert set(files) == {"modules.json", "1_Pooling/config.json"}
    assert files["modules.json"].read_text() == "this is a/m/modules.json"
    (tmp_path / "one").unlink()
    assert locate_encoder(made).folder == folder, "it is made once"


@pytest.mark.parametrize("names", [["other.json"], ["a/modules.json", "b/modules.json"]])
def test_a_zip_file_without_one_encoder_is_one_line(backbone, names, tmp_path):
    with pytest.raises(PromptRecoveryError, match=r"model 'm/1': .* one sentence-transformers"):
        locate_encoder(backbone(*names))
    assert [p for p in (tmp_path / "cache" / "encoders").iterdir() if p.is_dir()] == []
