"""What kind of text an original is, such as "news article", in the words of a language model."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from prompt_recovery.recovery.interface import Pair
from prompt_recovery.storage import KeyValueStore
from prompt_recovery.templates import Template, for_tokenizer

if TYPE_CHECKING:
    from prompt_recovery.recovery.writer import Writer  # loads torch

TEMPLATE = Template(
    name="kind",
    text="What kind of text is this? Name its genre in one to three words.\n\n"
    '"{{ original_text }}"',
    prefill="This text is a",
)
"""The question. A model that was trained to recover prompts still answers it, and more briefly."""
_INPUT_TOKENS = 112  # the beginning and the end of a text tell its kind
_NEW_TOKENS = 10
_MOST_WORDS = 4
_VERSION = 1  # of the question and its rules, for the cache

_AFTER = re.compile(
    r"[^\w\s&'’/-]| (?:or|and|about|on|of|that|which|who|with|from|for|in|into|at|by|to|between|set"
    r"|written|titled|called|describing|discussing|focused|specifically|designed|aimed)\b"
)
_BEFORE = re.compile(
    r"^(?:(?:an?|the|this|very|short|brief|long|classic|comprehensive|formal|single|well-known|type"
    r"|kind|form|piece|example|continuation|retelling|part|excerpt|mix|collection|series"
    r"|summary|of)\s+)+"
)
_VAGUE = re.compile(
    r"(?:text|passage|paragraph|sentence|description|narrative|piece|example|work)s?"
)


@dataclass
class KindNamer:
    """Asks a language model for the kind of texts, each of them once.

    Attributes:
        writer: A language model, which need not have been trained for this.
        keeps: Keep the answers in the cache.
    """

    writer: "Writer"
    keeps: bool = False
    _known: dict[str, str | None] = field(default_factory=dict, init=False, repr=False)

    def __call__(self, texts: Sequence[str]) -> list[str | None]:
        """The kind of each text, such as "news article"; None where the model names none."""
        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        if missing:
            self._ask(missing)
        return [self._known[text] for text in texts]

    def _ask(self, texts: Sequence[str]) -> None:
        kept = self.keeps and self.writer.identity
        store = KeyValueStore("kinds", f"{self.writer.identity}{_VERSION}") if kept else None
        keys = {text: _key(text) for text in texts}
        found = store.read(keys.values()) if store else {}
        said = {
            text: found[key].decode("utf-8", "replace")
            for text, key in keys.items()
            if key in found
        }
        pairs = [Pair(key.hex(), text, text) for text, key in keys.items() if text not in said]

        def ask(prompts: Sequence[Sequence[int]], _: Sequence[str]) -> list[str]:
            return [answer.raw for answer in reader.write_greedily(prompts, _NEW_TOKENS)]

        if pairs:
            template = for_tokenizer(TEMPLATE, self.writer.tokenizer)
            reader = replace(
                self.writer, template=template, max_prompt_tokens=_INPUT_TOKENS, shots=(), read=None
            )
            answers = reader.in_batches(pairs, _NEW_TOKENS, ask)
            fresh = {pairs[i].original_text: answer for i, answer in answers.items()}
            if store is not None:
                store.write({keys[text]: answer.encode() for text, answer in fresh.items()})
            said |= fresh
        self._known |= {text: kind_in(said.get(text, "")) for text in texts}


def kind_in(answer: str) -> str | None:
    """The kind that a model names, such as "news article" for " news article about a storm."."""
    said = " ".join(answer.split()).lower()
    said = _AFTER.split(_BEFORE.sub("", said), maxsplit=1)[0].strip(" -'’/")
    if not 0 < len(said.split()) <= _MOST_WORDS or _VAGUE.fullmatch(said):
        return None
    return "FAQ" if said == "faq" else said


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
