"""vLLM needs a GPU: here a module with its names and signatures stands in for it."""

import sys
import types
from dataclasses import dataclass, field

import pytest

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters import Answer, Model, Sampling, in_order
from prompt_recovery.rewriters.vllm import VllmRewriter

TINY = Model("tiny", architecture="gemma", licence="gemma")


@dataclass
class SamplingParams:
    temperature: float = 1.0
    max_tokens: int | None = 16
    seed: int | None = None


@dataclass
class CompletionOutput:
    index: int
    text: str
    token_ids: list[int]
    finish_reason: str | None


@dataclass
class RequestOutput:
    request_id: str
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = True


@dataclass
class LLM:
    model: str
    arguments: dict = field(default_factory=dict)
    calls: list[int] = field(default_factory=list)
    last = None

    def __init__(self, model, *, max_model_len, trust_remote_code, enable_prefix_caching, **more):
        if "nonsense" in more:
            raise ValueError("unexpected argument\n\n nonsense")
        self.model, self.calls = model, []
        self.arguments = {"max_model_len": max_model_len, **more}
        LLM.last = self

    def generate(self, prompts, sampling_params=None, *, use_tqdm=True):
        assert len(prompts) == len(sampling_params) and use_tqdm is False
        self.calls.append(len(prompts))
        outputs = []
        for number, (prompt, params) in enumerate(zip(prompts, sampling_params, strict=True)):
            ids = prompt["prompt_token_ids"]
            reason = "length" if params.seed == 2 else "stop"
            text = f"{len(ids)} {params.seed} {params.temperature} {params.max_tokens}"
            completion = CompletionOutput(0, text, [1, 2, 3], reason)
            outputs.append(RequestOutput(str(number), ids, [completion]))
        return outputs


@pytest.fixture
def vllm(monkeypatch):
    module = types.ModuleType("vllm")
    module.LLM, module.SamplingParams, module.__version__ = LLM, SamplingParams, "0.0"
    monkeypatch.setitem(sys.modules, "vllm", module)
    return module


def rewriter(model=TINY, **options):
    return VllmRewriter(model=model, sampling=Sampling(0.7, 16, 100), **options)


def chats(count):
    return [[{"role": "user", "content": "word " * n}] for n in range(1, count + 1)]


def test_answers(vllm):
    asked = rewriter(chunk=2, engine={"tensor_parallel_size": 2})
    long = [{"role": "user", "content": "word " * 300}]
    answers = in_order(asked, [*chats(3), long], [0, 1, 2, 3])
    lengths = [a.prompt_tokens for a in answers]
    assert answers[0] == Answer(f"{lengths[0]} 0 0.7 16", "", True, lengths[0], 3)
    assert [a.finished for a in answers[:3]] == [True, True, False]
    assert answers[3].error == "too_long" and lengths[3] > 100
    assert lengths[:3] == sorted(set(lengths[:3]))
    assert LLM.last.calls == [2, 1]
    assert LLM.last.arguments == {"max_model_len": 116, "tensor_parallel_size": 2}
    card = asked.card()
    assert (card["backend"], card["licence"]) == ("vllm 0.0", "gemma")
    asked.close()


def test_the_identity_is_of_what_decides_the_answers(vllm):
    assert rewriter().identity == rewriter(chunk=9).identity
    assert rewriter().identity != rewriter(engine={"quantization": "fp8"}).identity
    assert rewriter().identity != rewriter(model=Model("t", architecture="llama")).identity


def test_what_cannot_work_is_one_message(vllm, monkeypatch):
    with pytest.raises(PromptRecoveryError, match=r"vLLM cannot run 'tiny' \(unexpected argument"):
        in_order(rewriter(engine={"nonsense": 1}), chats(1), [0])
    with pytest.raises(PromptRecoveryError, match=r"rewriter\.backend\.chunk=0: must be"):
        rewriter(chunk=0)
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(PromptRecoveryError, match=r"pip install -e .*\[vllm\]'"):
        in_order(rewriter(), chats(1), [0])
