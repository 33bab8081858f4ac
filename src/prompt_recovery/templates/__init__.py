"""Jinja templates for the inputs of models, and the token ids of filled templates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jinja2

from prompt_recovery.errors import PromptRecoveryError, first_line, printable
from prompt_recovery.templates.differences import word_changes, word_difference
from prompt_recovery.templates.sandbox import BoundedEnvironment
from prompt_recovery.templates.special import SpecialTokens, pieces, special_tokens

__all__ = [
    "SpecialTokens",
    "Template",
    "accepted_messages",
    "chat_messages",
    "chat_prompt",
    "chat_tokens",
    "for_tokenizer",
    "pieces",
    "prompt_tokens",
    "render",
    "special_tokens",
    "text_tokens",
    "word_changes",
    "word_difference",
]


@dataclass(frozen=True)
class Template:
    """A Jinja template for a model's input.

    Attributes:
        name: The name, as in `template=<name>`.
        text: The Jinja source. Recovery templates may use `original_text` and `rewritten_text`,
            rewrite templates `original_text` and `rewrite_prompt`; both may call the function
            `difference(original_text, rewritten_text)`.
        chat: Whether the result becomes the user's turn in the tokenizer's own chat template. See
            `for_tokenizer` for base models, which have none.
        system: A system message. It is put before the user's turn if the tokenizer's chat template
            accepts none.
        prefill: The beginning of the answer, which is given to the model.
    """

    name: str
    text: str
    chat: bool = True
    system: str = ""
    prefill: str = ""

    def __post_init__(self) -> None:
        _compile(self)


def for_tokenizer(template: Template, tokenizer: Any) -> Template:
    """A recovery template that fits a tokenizer: without a chat template, it gives plain text."""
    if not template.chat or getattr(tokenizer, "chat_template", None):
        return template
    system = f"{{% raw %}}{template.system}{{% endraw %}}\n\n" if template.system else ""
    text = f"{system}{template.text}\n\nAnswer:\n"
    return replace(template, text=text, chat=False, system="")


_ENVIRONMENT = BoundedEnvironment(difference=word_difference)


@lru_cache(maxsize=32)
def _compile(template: Template) -> jinja2.Template:
    try:
        return _ENVIRONMENT.from_string(template.text)
    except jinja2.TemplateSyntaxError as error:
        raise PromptRecoveryError(
            f"template '{template.name}', line {error.lineno}: {error.message}"
        ) from error
    except (RecursionError, SyntaxError, ValueError, MemoryError) as error:
        raise PromptRecoveryError(
            f"template '{template.name}' is too deeply nested or too large"
        ) from error


def render(template: Template, **texts: str) -> str:
    """Fills a template with texts. Texts are data: Jinja syntax inside them is not run.

    Raises:
        PromptRecoveryError: If the template is wrong, uses a name that was not given, or would
            take very long or make a very long text.
    """
    try:
        return _ENVIRONMENT.fill(_compile(template), **_stripped(texts))
    except PromptRecoveryError:
        raise
    except jinja2.UndefinedError as error:
        known = ", ".join(texts)
        raise PromptRecoveryError(
            f"template '{template.name}': {error.message}; it may use {known}"
        ) from error
    except Exception as error:  # whatever an expression in the template raises, such as 1/0
        raise PromptRecoveryError(
            f"template '{template.name}' cannot be filled in ({first_line(error)}); correct it"
        ) from error


def _stripped(texts: dict[str, str]) -> dict[str, str]:
    return {name: text.strip() for name, text in texts.items()}


def chat_messages(template: Template, tokenizer: Any, **texts: str) -> list[dict[str, str]]:
    """The messages that a template makes of texts, in a form that the tokenizer accepts.

    Args:
        template: A template with `chat=True`.
        tokenizer: A `transformers` tokenizer. If its chat template has no system role (Gemma,
            Mistral), the user's message begins with the system message.
        texts: The arguments of `render`.

    Raises:
        PromptRecoveryError: If the tokenizer has no chat template.
    """
    if not getattr(tokenizer, "chat_template", None):
        raise PromptRecoveryError(
            f"template '{template.name}' needs a chat model, and this tokenizer has no chat "
            "template; use template=plain (base models are given plain text)"
        )
    content = render(template, **texts)
    user = {"role": "user", "content": content}
    system = [{"role": "system", "content": template.system}] if template.system else []
    return accepted_messages([*system, user], tokenizer)


def accepted_messages(messages: list[dict[str, str]], tokenizer: Any) -> list[dict[str, str]]:
    """Messages in a form that the tokenizer's chat template accepts.

    If it has no system role (Gemma, Mistral), the first message of the user begins with the system
    message.

    Args:
        messages: Messages with `role` and `content`.
        tokenizer: A `transformers` tokenizer with a chat template.

    Raises:
        PromptRecoveryError: If the chat template refuses the messages in that form, too.
    """
    first, *others = messages
    try:
        tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except jinja2.TemplateError as error:
        if first["role"] == "system" and others and others[0]["role"] == "user":
            joined = f"{first['content']}\n\n{others[0]['content']}"
            return accepted_messages([{"role": "user", "content": joined}, *others[1:]], tokenizer)
        roles = ", ".join(m["role"] for m in messages)
        raise PromptRecoveryError(
            f"the tokenizer's chat template refuses messages of these roles: {printable(roles)} "
            f"({first_line(error)}); let user and assistant take turns, the user first"
        ) from error
    return messages


def chat_prompt(template: Template, tokenizer: Any, **texts: str) -> str:
    """The full input string of a model, including special tokens, up to the completion.

    Args:
        template: A recovery or a rewrite template.
        tokenizer: A `transformers` tokenizer.
        texts: The arguments of `render`.

    Raises:
        PromptRecoveryError: If the template needs a chat template and the tokenizer has none.
    """
    if not template.chat:
        return (tokenizer.bos_token or "") + render(template, **texts) + template.prefill
    messages = chat_messages(template, tokenizer, **texts)
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return str(chat) + template.prefill


def text_tokens(text: str, tokenizer: Any) -> list[int]:
    """Returns the token ids of a text. No special tokens are recognised in it or added to it."""
    [replaced], hidden = special_tokens(tokenizer).hidden([text])
    return _token_ids(replaced, hidden, tokenizer)


def prompt_tokens(template: Template, tokenizer: Any, **texts: str) -> list[int]:
    """Returns the token ids of `chat_prompt`. Special tokens come from the templates only.

    Args:
        template: A recovery or a rewrite template.
        tokenizer: A `transformers` tokenizer.
        texts: The arguments of `render`.

    Raises:
        PromptRecoveryError: As for `chat_prompt`.
    """
    replaced, hidden = special_tokens(tokenizer).hidden(list(texts.values()))
    prompt = chat_prompt(template, tokenizer, **dict(zip(texts, replaced, strict=True)))
    return _token_ids(prompt, hidden, tokenizer)


def chat_tokens(
    messages: Sequence[Mapping[str, str]],
    tokenizer: Any,
    rendered: Callable[[list[dict[str, str]]], str] | None = None,
) -> list[int]:
    """The token ids of a chat up to the answer; special tokens come from the chat template only.

    Args:
        messages: The messages, whose contents are data.
        tokenizer: A `transformers` tokenizer.
        rendered: Makes a text of the messages; by default, it is the tokenizer's chat template.
    """
    contents, hidden = special_tokens(tokenizer).hidden([m["content"] for m in messages])
    chat = [{**m, "content": content} for m, content in zip(messages, contents, strict=True)]
    if rendered is not None:
        return _token_ids(rendered(chat), hidden, tokenizer)
    text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    return _token_ids(str(text), hidden, tokenizer)


def _token_ids(text: str, hidden: Mapping[str, str], tokenizer: Any) -> list[int]:
    return [
        int(token)
        for piece in pieces(text, hidden)
        for token in tokenizer(piece, add_special_tokens=False)["input_ids"]
    ]
