"""Jinja templates of models' inputs."""

import difflib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from prompt_recovery.errors import PromptRecoveryError, first_line, printable


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


def word_changes(original_text: str, rewritten_text: str) -> list[tuple[list[str], list[str]]]:
    """Runs of words as (before, after) pairs; the two are equal where the words were kept."""
    before, after = original_text.split(), rewritten_text.split()
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    return [(before[i:j], after[k:m]) for _, i, j, k, m in matcher.get_opcodes()]


def word_difference(original_text: str, rewritten_text: str) -> str:
    """Both texts as one, with `[-removed-]` and `{+added+}` words.

    Runs of more than eight kept words are shortened to their first and last three.
    """
    parts: list[str] = []
    for before, after in word_changes(original_text, rewritten_text):
        if before == after:
            parts += before if len(before) <= 8 else [*before[:3], "…", *before[-3:]]
            continue
        if before:
            parts.append(f"[-{' '.join(before)}-]")
        if after:
            parts.append(f"{{+{' '.join(after)}+}}")
    return " ".join(parts)


_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=jinja2.StrictUndefined, autoescape=False, keep_trailing_newline=True
)
_ENVIRONMENT.globals["difference"] = word_difference


@lru_cache(maxsize=32)
def _compile(template: Template) -> jinja2.Template:
    try:
        return _ENVIRONMENT.from_string(template.text)
    except jinja2.TemplateSyntaxError as error:
        raise PromptRecoveryError(
            f"template '{template.name}', line {error.lineno}: {error.message}"
        ) from error


def render(template: Template, **texts: str) -> str:
    """Fills a template with texts. Texts are data: Jinja syntax inside them is not run.

    Raises:
        PromptRecoveryError: If the template is wrong or uses a name that was not given.
    """
    try:
        return _compile(template).render(**{k: v.strip() for k, v in texts.items()})
    except jinja2.UndefinedError as error:
        known = ", ".join(texts)
        raise PromptRecoveryError(
            f"template '{template.name}': {error.message}; it may use {known}"
        ) from error
    except Exception as error:  # whatever an expression in the template raises, such as 1/0
        raise PromptRecoveryError(
            f"template '{template.name}' cannot be filled in ({first_line(error)}); correct it"
        ) from error


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
