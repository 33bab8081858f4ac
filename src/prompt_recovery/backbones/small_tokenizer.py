"""A small tokenizer for the common case of a folder with a `tokenizer.json` and a chat template.

It has what this package asks of a `transformers` tokenizer, and gives the same tokens and the same
chats. What it doesn't know is left to that library, which takes seconds to import.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.meta
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from prompt_recovery.storage import MALFORMED, read_small

_LARGEST = 1 << 27  # bytes of `tokenizer.json`
_CONFIG_BYTES = 1 << 22
_LARGEST_VOCABULARY = 100_000  # transformers repairs the pre-tokenizers of some larger ones
_OTHER_FILES = ("special_tokens_map.json", "added_tokens.json", "additional_chat_templates")
_NAMED = ("bos_token", "eos_token", "unk_token", "pad_token")
_CLASSES = ("TokenizersBackend", "PreTrainedTokenizerFast")
_NEUTRAL = {  # settings that have no influence on what is computed here
    "backend", "clean_up_tokenization_spaces", "is_local", "local_files_only", "model_max_length",
    "model_input_names", "model_specific_special_tokens", "padding_side", "tokenizer_class",
    "truncation_side",
}  # fmt: skip
_VARIABLES = {*_NAMED, "add_generation_prompt", "messages", "raise_exception"}


class SmallTokenizer:
    """A BPE tokenizer with the names that `transformers` uses.

    Args:
        tokenizer: The tokenizer.
        named: The special tokens that have a name, such as `eos_token`.
        chat_template: The Jinja source of the chat template; None if there is none.
    """

    def __init__(
        self, tokenizer: Tokenizer, named: Mapping[str, str], chat_template: str | None
    ) -> None:
        self.backend_tokenizer = tokenizer
        self.chat_template = chat_template
        self._chat = None if chat_template is None else _environment().from_string(chat_template)
        self._named = {**named}
        self._named.setdefault("pad_token", named["eos_token"])
        self.bos_token, self.eos_token = named.get("bos_token"), named["eos_token"]
        self.bos_token_id = None if self.bos_token is None else self._id_of(self.bos_token)
        self.eos_token_id = self._id_of(self.eos_token)
        self.pad_token_id = self._id_of(self._named["pad_token"])
        self.added_tokens_decoder = tokenizer.get_added_tokens_decoder()
        self.all_special_tokens = list(dict.fromkeys(self._named.values()))

    def __call__(self, text: str, add_special_tokens: bool = True, **_: Any) -> dict[str, Any]:
        """The `input_ids` of a text, and the characters of each token as `offset_mapping`."""
        read = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
        return {"input_ids": read.ids, "offset_mapping": read.offsets}

    def decode(self, tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        decoded = self.backend_tokenizer.decode(
            list(tokens), skip_special_tokens=skip_special_tokens
        )
        return str(decoded)

    def get_vocab(self) -> dict[str, int]:
        """The id of each token."""
        vocabulary: dict[str, int] = self.backend_tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def get_chat_template(self) -> str | None:
        """The Jinja source of the chat template."""
        return self.chat_template

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, str]],
        tokenize: bool = False,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text of a chat.

        Raises:
            jinja2.TemplateError: If the template refuses the messages.
        """
        if self._chat is None or tokenize:
            raise ValueError("there is no chat template, or token ids are asked for")
        return self._chat.render(
            messages=[dict(message) for message in messages],
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
            **self._named,
        )

    def _id_of(self, token: str) -> int:
        found = self.backend_tokenizer.token_to_id(token)
        if found is None:
            raise ValueError(f"the vocabulary has no {token!r}")
        return int(found)


def small_tokenizer(folder: Path) -> SmallTokenizer | None:
    """The tokenizer in a folder; None if it isn't exactly what `SmallTokenizer` computes."""
    try:
        return _read(folder)
    except (OSError, jinja2.TemplateError, *MALFORMED):
        return None  # the library says it better


def _read(folder: Path) -> SmallTokenizer | None:
    config = dict(json.loads(read_small(folder / "tokenizer_config.json", _CONFIG_BYTES)))
    if config["tokenizer_class"] not in _CLASSES:
        return None
    if any((folder / name).exists() for name in _OTHER_FILES):
        return None
    template = config.pop("chat_template", None)
    if (folder / "chat_template.jinja").is_file():
        template = read_small(folder / "chat_template.jinja", _CONFIG_BYTES)
    named = {name: config.pop(name) for name in _NAMED if config.get(name) is not None}
    if any(value for name, value in config.items() if name not in _NEUTRAL):
        return None
    tokenizer = Tokenizer.from_str(read_small(folder / "tokenizer.json", _LARGEST))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    added = tokenizer.get_added_tokens_decoder().values()
    special = {token.content for token in added if token.special}
    suits = (
        type(tokenizer.model).__name__ == "BPE"
        and tokenizer.get_vocab_size() <= _LARGEST_VOCABULARY
        and tokenizer.post_processor is not None
        and set(named.values()) <= special
        and "eos_token" in named
        and (template is None or _is_plain(template))
    )
    return SmallTokenizer(tokenizer, named, template) if suits else None


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment of chat templates, as `transformers` makes it, without its extensions."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals = {"raise_exception": _raise}
    return environment


def _is_plain(template: str) -> bool:
    """Whether a chat template uses nothing but what it is given here.

    Raises:
        jinja2.TemplateSyntaxError: If it uses an extension.
    """
    environment = _environment()
    used = jinja2.meta.find_undeclared_variables(environment.parse(template))
    return used <= _VARIABLES and "tojson" not in template


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)
