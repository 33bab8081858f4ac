"""The special tokens of a tokenizer, which templates may use but data may not."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any


@dataclass(frozen=True)
class SpecialTokens:
    """The texts that a tokenizer reads as one token with a meaning of its own, such as `</s>`.

    Only templates may use them. In data, such a text is a text like any other: it is divided, so
    that the tokenizer doesn't recognise it.

    Attributes:
        texts: The texts, each of two characters or more.
    """

    texts: frozenset[str]

    @classmethod
    def of(cls, tokenizer: Any) -> "SpecialTokens":
        """Returns the special tokens of a `transformers` tokenizer and of its chats."""
        chat = str(getattr(tokenizer, "chat_template", None) or "")
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        found = {t.content for t in added if t.special or (t.content.strip() in chat)}
        found.update(getattr(tokenizer, "all_special_tokens", ()))
        return cls(frozenset(text for text in found if len(text.strip()) > 1))

    def hidden(self, texts: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """Replaces special tokens in texts.

        Returns:
            The texts with a character of its own, which is in none of them, for each special token;
            and the special tokens by these characters, for `pieces`.
        """
        found = dict.fromkeys(
            match for text in texts for match in (self._pattern.findall(text) if self.texts else ())
        )
        if not found:
            return list(texts), {}
        used = set("".join(texts))
        free = (c for c in map(chr, _PRIVATE) if c not in used)
        marks = {special: next(free) for special in found}
        replaced = [self._pattern.sub(lambda match: marks[match[0]], text) for text in texts]
        return replaced, {mark: special for special, mark in marks.items()}

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.texts, key=lambda text: (-len(text), text))
        return re.compile("|".join(map(re.escape, longest_first)))


_PRIVATE = range(0xF0000, 0xFFFFE)  # characters without a meaning


def pieces(text: str, hidden: Mapping[str, str]) -> list[str]:
    """Returns a text in pieces in which a tokenizer finds no special token that was hidden.

    Args:
        text: What a template made of texts whose special tokens `SpecialTokens.hidden` replaced.
        hidden: The special tokens by the characters that replaced them.
    """
    found = [""]
    for part in re.split(f"([{''.join(hidden)}])", text) if hidden else [text]:
        special = hidden.get(part)
        if special is None:
            found[-1] += part
        else:
            found[-1] += special[:1]
            found.append(special[1:])
    return [piece for piece in found if piece]


@lru_cache(maxsize=8)
def special_tokens(tokenizer: Any) -> SpecialTokens:
    """The special tokens of a `transformers` tokenizer."""
    return SpecialTokens.of(tokenizer)
