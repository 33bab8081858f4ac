"""The model of a rewriter, its sampling, and the choice of a backend."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Le

from prompt_recovery.backbones.locate import OFFLINE_MODELS, Backbone, Location, gguf_file, locate
from prompt_recovery.errors import PromptRecoveryError, first_line
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter
from prompt_recovery.settings import AtLeastOne, checked
from prompt_recovery.storage import fingerprint
from prompt_recovery.templates import chat_tokens as tokens_of_chat

_HUB_TIMEOUT_S = 4


@dataclass(frozen=True)
class Model(Backbone):
    """A model, with its names in the different backends.

    Attributes:
        path: A local folder in Hub format; for llama.cpp, a GGUF file.
        gguf_repo: A repository of GGUF files on the Hub, for llama.cpp.
        gguf_file: The file in that repository.
        served: The model's name at an endpoint.
        licence: The SPDX identifier or the name of the licence, for the dataset's card.
        system_role: Whether its chat template has a system role. If it has none (Gemma), the user's
            message begins with the system message.
    """

    gguf_repo: str | None = None
    gguf_file: str | None = None
    served: str = ""
    licence: str = ""
    system_role: bool = True

    def chat(self, chat: Chat) -> Chat:
        """A chat in the form that this model accepts."""
        if self.system_role or not chat or chat[0]["role"] != "system":
            return list(chat)
        system, user, *others = chat
        content = f"{system['content']}\n\n{user['content']}"
        return [{**user, "content": content}, *others]


@checked("rewriter.sampling")
@dataclass(frozen=True)
class Sampling:
    """The settings of sampling.

    Attributes:
        temperature: The temperature, in [0, 2]; 0 takes the most likely token.
        max_new_tokens: The largest number of tokens in an answer.
        max_prompt_tokens: The largest number of tokens in a chat, which limits the memory. A longer
            chat fails with the error `too_long`. Endpoints have their own limits.
    """

    temperature: Annotated[float, Ge(0), Le(2)] = 0.7
    max_new_tokens: AtLeastOne = 256
    max_prompt_tokens: AtLeastOne = 1024


_SAMPLING = Sampling()


def make(
    model: Model, backend: Callable[..., Rewriter], sampling: Sampling = _SAMPLING
) -> Rewriter:
    """Makes a rewriter of a model, a backend and the sampling.

    This is what `rewriter=<model> rewriter/backend=<backend>` does.

    Args:
        model: The model.
        backend: The class of a rewriter, with its own options filled in.
        sampling: The settings of sampling.
    """
    return backend(model=model, sampling=sampling)


def located(model: Model) -> Location:
    """Calls `locate`, with error messages that name the rewriter's settings.

    Raises:
        PromptRecoveryError: If the files cannot be found or downloaded.
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
        PromptRecoveryError: Within seconds, if it cannot be found or downloaded.
    """
    if model.path is not None:
        file = Path(model.path).expanduser()
        if file.suffix != ".gguf" or not file.is_file():
            raise PromptRecoveryError(
                f"rewriter.model.path={model.path}: is not a GGUF file, which rewriter/backend="
                "llama_cpp needs"
            )
        return file
    if model.package is not None:
        return gguf_file(located(model))
    if not (model.gguf_repo and model.gguf_file):
        raise PromptRecoveryError(
            f"rewriter '{model.name}' names no GGUF file: set rewriter.model.path=<file>.gguf, or "
            "rewriter.model.gguf_repo and gguf_file"
        )
    os.environ.setdefault("HF_HUB_ETAG_TIMEOUT", str(_HUB_TIMEOUT_S))
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model.gguf_repo, model.gguf_file))
    except Exception as error:  # network, offline mode, a gated model or a wrong name
        raise PromptRecoveryError(
            f"cannot get {model.gguf_file} of '{model.gguf_repo}' from the Hugging Face Hub "
            f"({type(error).__name__}): check the name and the network, or give a local copy with "
            "rewriter.model.path=<file>.gguf; rewriter=smollm2 works offline"
        ) from error


def card(model: Model, sampling: Sampling, **more: str) -> dict[str, str]:
    """The entries of a dataset's card about a rewriter."""
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
    """The text that the model's chat template makes of a chat.

    Raises:
        PromptRecoveryError: If the template refuses the chat.
    """
    try:
        return str(render(model.chat(chat)))
    except Exception as error:  # whatever a template raises
        raise PromptRecoveryError(
            f"the chat template of '{model.name}' refuses a chat ({first_line(error)}): where "
            "it knows no system role, set rewriter.model.system_role=false"
        ) from error


def within_limit(
    chats: Sequence[Chat],
    seeds: Sequence[int],
    tokens_of: Callable[[Chat], list[int]],
    limit: int,
) -> tuple[list[tuple[int, list[int], int]], list[tuple[int, Answer]]]:
    """Tokenises chats, and separates those that are too long.

    Args:
        chats: The chats.
        seeds: The seed of each chat.
        tokens_of: Tokenises a chat up to the beginning of the answer.
        limit: The largest number of tokens in a chat.

    Returns:
        The index, the tokens and the seed of each chat within the limit; and the answers to the
        other chats, with the error `too_long`.
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
        PromptRecoveryError: If it has no chat template.
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
    """Tokenises a chat up to the beginning of the answer."""

    def rendered(messages: Chat) -> str:
        return prompt_text(
            model,
            messages,
            lambda accepted: tokenizer.apply_chat_template(
                accepted, tokenize=False, add_generation_prompt=True
            ),
        )

    return tokens_of_chat(chat, tokenizer, rendered)


@dataclass(frozen=True, kw_only=True)
class TokenizingRewriter:
    """What rewriters that give a model the tokens of a chat have in common.

    Attributes:
        model: The model.
        sampling: The settings of sampling.
    """

    model: Model
    sampling: Sampling

    @property
    def name(self) -> str:
        """The model's name."""
        return self.model.name

    def _identity(self, backend: str, *others: Any) -> str:
        """A hash of the weights, the chat template, the sampling, and what else matters."""
        return fingerprint(
            backend,
            self._location.identity,
            self._tokenizer.chat_template,
            self.model.system_role,
            asdict(self.sampling),
            *others,
        )

    def _card(self, backend: str) -> dict[str, str]:
        template = f"the model's own ({fingerprint(self._tokenizer.chat_template)})"
        return card(self.model, self.sampling, backend=backend, chat_template=template)

    def _within_limit(
        self, chats: Sequence[Chat], seeds: Sequence[int]
    ) -> tuple[list[tuple[int, list[int], int]], list[tuple[int, Answer]]]:
        tokens_of = partial(chat_tokens, self.model, self._tokenizer)
        return within_limit(chats, seeds, tokens_of, self.sampling.max_prompt_tokens)

    @cached_property
    def _location(self) -> Location:
        return located(self.model)

    @cached_property
    def _tokenizer(self) -> Any:
        return chat_tokenizer(self.model, self._location)
