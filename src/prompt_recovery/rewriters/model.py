"""Which model answers, how it chooses its words, and what runs it."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.backbones.locate import OFFLINE_MODELS, Backbone, Location, locate
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter

_HUB_TIMEOUT_S = 4


@dataclass(frozen=True)
class Model(Backbone):
    """A model under the names that the backends know it by.

    Attributes:
        path: a local folder in Hub format; for llama.cpp, a GGUF file.
        gguf_repo: a Hub repository of GGUF files, for llama.cpp.
        gguf_file: the file in it.
        served: what an endpoint calls the model.
        licence: an SPDX identifier, or the licence's name; it is said on the dataset's card.
        system_role: whether its chat template knows a system role. Where it doesn't (Gemma), the
            system message opens the user's.
    """

    gguf_repo: str | None = None
    gguf_file: str | None = None
    served: str = ""
    licence: str = ""
    system_role: bool = True

    def chat(self, chat: Chat) -> Chat:
        """A chat as this model takes it."""
        if self.system_role or not chat or chat[0]["role"] != "system":
            return list(chat)
        system, user, *others = chat
        content = f"{system['content']}\n\n{user['content']}"
        return [{**user, "content": content}, *others]


@dataclass(frozen=True)
class Sampling:
    """How answers are chosen.

    Attributes:
        temperature: of the samples, in [0, 2]; 0 takes the likeliest word.
        max_new_tokens: most tokens of an answer.
        max_prompt_tokens: a longer chat fails as `too_long`; it bounds the memory. Endpoints have
            limits of their own.
    """

    temperature: float = 0.7
    max_new_tokens: int = 256
    max_prompt_tokens: int = 1024

    def __post_init__(self) -> None:
        if not 0 <= self.temperature <= 2:
            raise PromptRecoveryError(
                f"rewriter.sampling.temperature={self.temperature}: must be in [0, 2]"
            )
        for name in ("max_new_tokens", "max_prompt_tokens"):
            if getattr(self, name) < 1:
                raise PromptRecoveryError(
                    f"rewriter.sampling.{name}={getattr(self, name)}: must be ≥ 1"
                )


_SAMPLING = Sampling()


def make(
    model: Model, backend: Callable[..., Rewriter], sampling: Sampling = _SAMPLING
) -> Rewriter:
    """A rewriter from its three parts: what `rewriter=<model> rewriter/backend=<backend>` means.

    Args:
        model: which model.
        backend: a rewriter's class with its own options filled in.
        sampling: how answers are chosen.
    """
    return backend(model=model, sampling=sampling)


def located(model: Model) -> Location:
    """`locate`, with messages that speak of the rewriter's settings.

    Raises:
        PromptRecoveryError: the files cannot be had.
    """
    try:
        return locate(model)
    except PromptRecoveryError as error:
        said = str(error).replace(OFFLINE_MODELS, "rewriter=smollm2 works offline")
        said = re.sub(r"\bmodel\.(path|repo|package)", r"rewriter.model.\1", said)
        raise PromptRecoveryError(re.sub(r"^model '", "rewriter '", said)) from error


def gguf(model: Model) -> Path:
    """The model's GGUF file: `path`, in its package, or from the Hub.

    Raises:
        PromptRecoveryError: within seconds, if there is none to be had.
    """
    if model.path is not None:
        file = Path(model.path).expanduser()
        if file.suffix != ".gguf" or not file.is_file():
            raise PromptRecoveryError(
                f"rewriter.model.path={model.path}: is no GGUF file, which rewriter/backend="
                "llama_cpp needs"
            )
        return file
    if model.package is not None:
        location = located(model)
        return location.folder / str(location.gguf_file)
    if not (model.gguf_repo and model.gguf_file):
        raise PromptRecoveryError(
            f"rewriter '{model.name}' names no GGUF file: set rewriter.model.path=<file>.gguf, or "
            "rewriter.model.gguf_repo and gguf_file"
        )
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_HUB_TIMEOUT_S))
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model.gguf_repo, model.gguf_file))
    except Exception as error:  # network, offline mode, gated, wrong name: one thing to a user
        raise PromptRecoveryError(
            f"cannot get {model.gguf_file} of '{model.gguf_repo}' from the Hugging Face Hub "
            f"({type(error).__name__}): check the name and the network, or give a local copy with "
            "rewriter.model.path=<file>.gguf; rewriter=smollm2 works offline"
        ) from error


def card(model: Model, sampling: Sampling, **more: str) -> dict[str, str]:
    """What a dataset's card says of a rewriter."""
    source = model.repo or model.package or model.architecture or ""
    record = {
        "model": model.name,
        "source": f"{source}@{model.revision}" if model.revision else source,
        "licence": model.licence,
        "temperature": f"{sampling.temperature:g}",
        "max_new_tokens": str(sampling.max_new_tokens),
        **more,
    }
    return {name: value for name, value in record.items() if value}


def prompt_text(model: Model, chat: Chat, render: Callable[[Chat], Any]) -> str:
    """A chat as the model's chat template writes it.

    Raises:
        PromptRecoveryError: the template refuses it.
    """
    try:
        return str(render(model.chat(chat)))
    except Exception as error:  # whatever a template raises
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise PromptRecoveryError(
            f"the chat template of '{model.name}' refuses a chat ({reason}): where it knows no "
            "system role, set rewriter.model.system_role=false"
        ) from error


def within_limit(
    chats: Sequence[Chat],
    seeds: Sequence[int],
    tokens_of: Callable[[Chat], list[int]],
    limit: int,
) -> tuple[list[tuple[int, list[int], int]], list[tuple[int, Answer]]]:
    """Chats as tokens, apart from those that are too long.

    Args:
        chats: what is asked.
        seeds: one for each.
        tokens_of: a chat as tokens, up to where the answer begins.
        limit: the most tokens of a chat.

    Returns:
        (index, tokens, seed) of those that are within the limit, and the answers to the others.
    """
    within: list[tuple[int, list[int], int]] = []
    beyond: list[tuple[int, Answer]] = []
    for index, (chat, seed) in enumerate(zip(chats, seeds, strict=True)):
        tokens = tokens_of(chat)
        if len(tokens) > limit:
            beyond.append((index, Answer("", "too_long", prompt_tokens=len(tokens))))
        else:
            within.append((index, tokens, seed))
    return within, beyond


def chat_tokenizer(model: Model, location: Location) -> Any:
    """The model's `transformers` tokenizer.

    Raises:
        PromptRecoveryError: it has no chat template.
    """
    from prompt_recovery.backbones.load import load_tokenizer

    tokenizer = load_tokenizer(model, location)
    if not tokenizer.chat_template:
        raise PromptRecoveryError(
            f"rewriter '{model.name}' has no chat template: a rewriter must be a chat model (an "
            "instruction-tuned one)"
        )
    return tokenizer


def chat_tokens(model: Model, tokenizer: Any, chat: Chat) -> list[int]:
    """A chat as tokens, up to where the answer begins."""
    text = prompt_text(
        model,
        chat,
        lambda messages: tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=True
        ),
    )
    tokens: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return tokens
