"""A rewriter that runs a model with vLLM, on NVIDIA GPUs."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.rewriters.model import TokenizingRewriter
from prompt_recovery.settings import AtLeastOne, checked
from prompt_recovery.settings.extras import require_extra


@checked("rewriter.backend")
@dataclass(frozen=True, kw_only=True)
class VllmRewriter(TokenizingRewriter):
    """A model in vLLM's offline engine, which is loaded when first used (extra `[vllm]`).

    vLLM samples with the seed of each request, but its rounding depends on the other requests, so
    an answer may change with them.

    Attributes:
        chunk: The number of chats that are given to vLLM at a time; their answers come together.
        engine: Further engine arguments of vLLM, such as `tensor_parallel_size`.
    """

    chunk: AtLeastOne = 512
    engine: Mapping[str, Any] = field(default_factory=dict)

    EXTRA: ClassVar = ("vllm", "rewriter/backend=vllm (on Linux, with NVIDIA GPUs)")

    @property
    def identity(self) -> str:
        """A hash of the weights, the chat template, the sampling and the engine arguments."""
        return self._identity("vllm", dict(self.engine))

    def card(self) -> dict[str, str]:
        """The model, its licence and chat template, the sampling, and the library's version."""
        return self._card(f"vllm {_vllm().__version__}")

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yields answers in order, a chunk at a time."""
        wanted, beyond = self._within_limit(chats, seeds)
        yield from beyond
        for start in range(0, len(wanted), self.chunk):
            yield from self._answered(wanted[start : start + self.chunk])

    def close(self) -> None:
        """Frees the engine and its GPU memory."""
        self.__dict__.pop("_engine", None)

    def _answered(
        self, wanted: Sequence[tuple[int, list[int], int]]
    ) -> Iterator[tuple[int, Answer]]:
        outputs = self._engine.generate(
            [{"prompt_token_ids": tokens} for _, tokens, _ in wanted],
            [
                _vllm().SamplingParams(
                    temperature=self.sampling.temperature,
                    max_tokens=self.sampling.max_new_tokens,
                    seed=seed % 2**63,
                )
                for _, _, seed in wanted
            ],
            use_tqdm=False,
        )
        for (index, tokens, _), output in zip(wanted, outputs, strict=True):
            [completion] = output.outputs
            yield (
                index,
                Answer(
                    text=completion.text,
                    finished=completion.finish_reason != "length",
                    prompt_tokens=len(tokens),
                    completion_tokens=len(completion.token_ids),
                ),
            )

    @cached_property
    def _engine(self) -> Any:
        api = _vllm()
        # A GGUF file has been converted by now, and the tokenizer is in the same folder.
        folder = self._tokenizer.name_or_path
        length = self.sampling.max_prompt_tokens + self.sampling.max_new_tokens
        arguments = {
            "max_model_len": length,
            "trust_remote_code": self.model.trust_remote_code,
            "enable_prefix_caching": True,
            **self.engine,
        }
        try:
            return api.LLM(folder, **arguments)
        except Exception as error:  # no GPU, too little memory or an unknown argument
            raise PromptRecoveryError(
                f"vLLM cannot run '{self.model.name}' ({first_line(error)}): it needs Linux "
                "and an NVIDIA GPU with room for the model; rewriter.backend.engine holds its "
                "arguments"
            ) from error


def _vllm() -> Any:
    require_extra(*VllmRewriter.EXTRA)
    import vllm

    return vllm
