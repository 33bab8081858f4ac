"""A rewriter that runs GGUF files with llama.cpp."""

import os
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from prompt_recovery.backbones.locate import Location
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.rewriters.model import (
    Model,
    Sampling,
    card,
    gguf,
    prompt_text,
    within_limit,
)
from prompt_recovery.settings import AtLeastOne, checked
from prompt_recovery.settings.extras import require_extra
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import SpecialTokens, pieces

_UBATCH = 512  # tokens that llama.cpp computes at a time


@checked("rewriter.backend")
@dataclass(frozen=True, kw_only=True)
class LlamaCppRewriter:
    """A quantised model in this process, which is loaded when first used (extra `[llama_cpp]`).

    The kernels of llama.cpp round differently for batches of different sizes: the same chats with
    the same seeds get the same answers, but an answer may depend on the other chats.

    Attributes:
        model: The model.
        sampling: The settings of sampling.
        rows: The number of chats that are answered at a time.
        gpu_layers: The number of layers on the GPU if llama.cpp was built for one; -1 means all.
    """

    model: Model
    sampling: Sampling
    rows: AtLeastOne = 16
    gpu_layers: Annotated[int, Ge(-1)] = -1

    EXTRA: ClassVar = ("llama_cpp", "rewriter/backend=llama_cpp (which is compiled for minutes)")

    @property
    def identity(self) -> str:
        """A hash of the file, which contains the chat template, and the sampling."""
        file = self._file
        return fingerprint(
            "llama_cpp",
            Location(file.parent, file.name).identity,
            self.model.system_role,
            asdict(self.sampling),
        )

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def card(self) -> dict[str, str]:
        """The model, its licence and file, the sampling, and the version of llama.cpp."""
        version = getattr(_llama_cpp(), "__version__", "")
        return card(
            self.model,
            self.sampling,
            file=self._file.name,
            backend=f"llama-cpp-python {version}",
            chat_template="the GGUF file's",
        )

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Yields answers in the order in which they are finished."""
        sampling = self.sampling
        within, beyond = within_limit(chats, seeds, self._tokens, sampling.max_prompt_tokens)
        yield from beyond
        if not within:
            return
        waiting = deque(
            _Writing(index, prompt, np.random.default_rng(seed).random(sampling.max_new_tokens))
            for index, prompt, seed in sorted(within, key=lambda w: -len(w[1]))
        )
        llama = self._llama
        with _session(
            llama, min(self.rows, len(waiting)), len(waiting[0].prompt) + sampling.max_new_tokens
        ) as session:
            for done in session.run(waiting, sampling):
                text = llama.detokenize(done.tokens).decode(errors="replace")
                yield (
                    done.index,
                    Answer(
                        text=text,
                        finished=done.finished,
                        prompt_tokens=len(done.prompt),
                        completion_tokens=len(done.tokens) + done.finished,
                    ),
                )

    def close(self) -> None:
        """Frees the model."""
        llama = self.__dict__.pop("_llama", None)
        if llama is not None:
            llama.close()

    def _tokens(self, chat: Chat) -> list[int]:
        formatter = self._formatter
        contents, hidden = self._special.hidden([message["content"] for message in chat])
        chat = [{**m, "content": content} for m, content in zip(chat, contents, strict=True)]
        text = prompt_text(self.model, chat, lambda messages: formatter(messages=messages).prompt)
        return [
            token
            for piece in pieces(text, hidden)
            for token in self._llama.tokenize(piece.encode(), add_bos=False, special=True)
        ]

    @cached_property
    def _special(self) -> SpecialTokens:
        api, llama = _llama_cpp(), self._llama
        words = api.llama_model_get_vocab(llama.model)
        found = {
            api.llama_vocab_get_text(words, token).decode(errors="replace")
            for token in range(llama.n_vocab())
            if api.llama_vocab_is_control(words, token)
        }
        return SpecialTokens(frozenset(text for text in found if len(text) > 1))

    @cached_property
    def _file(self) -> Path:
        return gguf(self.model)

    @cached_property
    def _llama(self) -> Any:
        try:
            # Only the model and tokenizer are used, as its own context takes one text at a time.
            llama = _llama_cpp().Llama(
                str(self._file), n_ctx=32, n_gpu_layers=self.gpu_layers, verbose=False
            )
        except ValueError as error:
            raise PromptRecoveryError(
                f"llama.cpp cannot load {self._file}: the file may be cut short, or its "
                "architecture newer than the installed llama-cpp-python"
            ) from error
        asked = self.sampling.max_prompt_tokens + self.sampling.max_new_tokens
        if asked > llama._model.n_ctx_train():
            raise PromptRecoveryError(
                f"rewriter '{self.model.name}' reads {llama._model.n_ctx_train()} tokens at most: "
                "lower rewriter.sampling.max_prompt_tokens or max_new_tokens"
            )
        return llama

    @cached_property
    def _formatter(self) -> Any:
        llama = self._llama
        from llama_cpp.llama_chat_format import Jinja2ChatFormatter

        template = llama.metadata.get("tokenizer.chat_template")
        if not template:
            raise PromptRecoveryError(
                f"{self._file.name} holds no chat template: a rewriter must be a chat model (an "
                "instruction-tuned one)"
            )
        bos, eos = (llama._model.token_get_text(t) if t >= 0 else "" for t in
                    (llama.token_bos(), llama.token_eos()))  # fmt: skip
        return Jinja2ChatFormatter(template, eos_token=eos, bos_token=bos)


def _llama_cpp() -> Any:
    require_extra(*LlamaCppRewriter.EXTRA)
    import llama_cpp

    return llama_cpp


@dataclass(slots=True)
class _Writing:
    """An unfinished answer."""

    index: int
    prompt: list[int]
    uniforms: NDArray[np.float64]
    tokens: list[int] = field(default_factory=list)
    finished: bool = False


@contextmanager
def _session(llama: Any, rows: int, length: int) -> Iterator["_Session"]:
    """A context of llama.cpp for `rows` sequences of at most `length` tokens."""
    api = _llama_cpp()
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    tokens = length + rows
    params = api.llama_context_default_params()
    params.n_ctx, params.n_seq_max = rows * -(-length // 256) * 256, rows
    params.n_batch, params.n_ubatch = max(tokens, _UBATCH), _UBATCH
    params.n_threads = params.n_threads_batch = threads
    params.no_perf = True
    context = api.llama_init_from_model(llama.model, params)
    if context is None:
        raise PromptRecoveryError(
            "llama.cpp finds no memory for its context: lower rewriter.backend.rows or "
            "rewriter.sampling.max_prompt_tokens"
        )
    batch = api.llama_batch_init(max(tokens, _UBATCH), 0, 1)
    try:
        yield _Session(api, llama, context, batch, rows, max(tokens, _UBATCH))
    finally:
        api.llama_batch_free(batch)
        api.llama_free(context)


@dataclass
class _Session:
    """Sequences of llama.cpp, in rows; a finished one makes room for the next prompt."""

    api: Any
    llama: Any
    context: Any
    batch: Any
    rows: int
    capacity: int  # the largest number of tokens in a batch

    def run(self, waiting: "deque[_Writing]", sampling: Sampling) -> Iterator[_Writing]:
        memory = self.api.llama_get_memory(self.context)
        vocabulary = self.api.llama_model_get_vocab(self.llama.model)
        writing: dict[int, _Writing] = {}
        while waiting or writing:
            self.batch.n_tokens = 0
            asked: list[tuple[int, int]] = []  # (row, place in the batch)
            for row, w in writing.items():
                self._add(row, len(w.prompt) + len(w.tokens) - 1, w.tokens[-1:])
                asked.append((row, self.batch.n_tokens - 1))
            for row in range(self.rows):
                if row in writing or not waiting or not self._room(len(waiting[0].prompt)):
                    continue
                writing[row] = w = waiting.popleft()
                self._add(row, 0, w.prompt)
                asked.append((row, self.batch.n_tokens - 1))
            status = self.api.llama_decode(self.context, self.batch)
            if status:
                raise PromptRecoveryError(
                    f"llama.cpp failed to decode (code {status}): lower rewriter.backend.rows"
                )
            chosen = _choose(
                self._logits([place for _, place in asked]),
                sampling.temperature,
                np.array([writing[r].uniforms[len(writing[r].tokens)] for r, _ in asked]),
            )
            for (row, _), token in zip(asked, chosen, strict=True):
                w = writing[row]
                w.finished = bool(self.api.llama_vocab_is_eog(vocabulary, token))
                if not w.finished:
                    w.tokens.append(token)
                if w.finished or len(w.tokens) == sampling.max_new_tokens:
                    del writing[row]
                    self.api.llama_memory_seq_rm(memory, row, -1, -1)
                    yield w

    def _room(self, tokens: int) -> bool:
        """Whether a prompt may join the batch; a long one would keep the other rows waiting."""
        used = self.batch.n_tokens
        return used + tokens <= self.capacity and (used <= self.rows or used + tokens <= _UBATCH)

    def _add(self, row: int, start: int, tokens: Sequence[int]) -> None:
        """Adds consecutive tokens of a row; logits are computed for the last one."""
        batch = self.batch
        for place, token in enumerate(tokens, batch.n_tokens):
            batch.token[place] = token
            batch.pos[place] = start + place - batch.n_tokens
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = row
            batch.logits[place] = False
        batch.n_tokens += len(tokens)
        batch.logits[batch.n_tokens - 1] = True

    def _logits(self, places: Sequence[int]) -> NDArray[np.float32]:
        """A copy of the logits [places, V], whose memory llama.cpp will reuse."""
        words = self.llama.n_vocab()
        return np.stack(
            [
                np.ctypeslib.as_array(self.api.llama_get_logits_ith(self.context, p), (words,))
                for p in places
            ]
        )


def _choose(
    logits: NDArray[np.float32], temperature: float, uniforms: NDArray[np.float64]
) -> list[int]:
    """The token of each row where the cumulative distribution passes its uniform number."""
    if temperature == 0:
        return [int(t) for t in logits.argmax(1)]
    unnormalised = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    passed = unnormalised.cumsum(1, dtype=np.float64)
    return [
        min(int(np.searchsorted(row, uniform * row[-1], side="right")), len(row) - 1)
        for row, uniform in zip(passed, uniforms, strict=True)
    ]
