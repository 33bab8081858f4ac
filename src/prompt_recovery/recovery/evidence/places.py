"""Where in the two texts the tokens of a recovery prompt come from."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prompt_recovery.data.tokens import CUT, kept_ranges
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.spans import TextName
from prompt_recovery.templates import Template, chat_prompt, pieces, special_tokens

_MARKS = range(0x100000, 0x10FFFE)  # characters without a meaning


@dataclass(frozen=True, slots=True)
class TokenPlace:
    """The part of a text that a token stands for, as indices of characters."""

    text: TextName
    start: int
    end: int


def template_places(
    template: Template,
    tokenizer: Any,
    shortened: Mapping[TextName, str],
    whole: Mapping[TextName, str],
) -> tuple[list[int], list[TokenPlace | None]]:
    """The token ids of a recovery prompt, and where in the whole texts each of them comes from.

    Args:
        template: The recovery template.
        tokenizer: A `transformers` tokenizer.
        shortened: Both texts as the prompt holds them; see `data.tokens.fitted`.
        whole: Both texts.

    Returns:
        The ids, and for each of them its place; None for tokens of the template, white space, and
        what stands in place of parts that were cut out.

    Raises:
        PromptRecoveryError: If the template shows the texts in another form.
    """
    texts = {name: text.strip() for name, text in shortened.items()}
    replaced, hidden = special_tokens(tokenizer).hidden(list(texts.values()))
    used = set("".join(replaced))
    marks = [chr(c) for c in _MARKS if chr(c) not in used][: 2 * len(texts)]
    inner = {f"{name}_text": text for name, text in zip(texts, replaced, strict=True)}
    outer = {
        name: marks[2 * n] + text + marks[2 * n + 1] for n, (name, text) in enumerate(inner.items())
    }
    plain = chat_prompt(template, tokenizer, **inner)
    marked = "".join(pieces(chat_prompt(template, tokenizer, **outer), hidden))
    parts = pieces(plain, hidden)
    whole_texts = all(
        marked.count(marks[2 * n] + text + marks[2 * n + 1]) == 1
        for n, text in enumerate(texts.values())
    )
    if not whole_texts or "".join(c for c in marked if c not in marks) != "".join(parts):
        raise PromptRecoveryError(
            f"explain=integrated_gradients: template '{template.name}' shows the texts in another "
            "form, so that its tokens cannot be found in them; use explain=occlusion"
        )
    origin: list[tuple[TextName, int] | None] = []  # of each character of the prompt
    now: TextName | None = None
    at = 0
    sources = {name: _origins(whole[name], shortened[name]) for name in texts}
    for character in marked:
        if character in marks:
            number = marks.index(character)
            now = list(texts)[number // 2] if number % 2 == 0 else None
            at = 0
            continue
        source = None if now is None or character.isspace() else sources[now][at]
        origin.append(None if now is None or source is None else (now, source))
        at += 1
    return _located(parts, origin, tokenizer)


def _located(
    parts: list[str], origin: list[tuple[TextName, int] | None], tokenizer: Any
) -> tuple[list[int], list[TokenPlace | None]]:
    ids: list[int] = []
    places: list[TokenPlace | None] = []
    begin = 0
    for part in parts:
        found = tokenizer(part, add_special_tokens=False, return_offsets_mapping=True)
        for token, (start, end) in zip(found["input_ids"], found["offset_mapping"], strict=True):
            own = [o for o in origin[begin + start : begin + end] if o is not None]
            ids.append(int(token))
            places.append(TokenPlace(own[0][0], own[0][1], own[-1][1] + 1) if own else None)
        begin += len(part)
    return ids, places


def _origins(whole: str, shortened: str) -> list[int | None]:
    """The index in the whole text of each character of the stripped, shortened text."""
    ranges = kept_ranges(whole, shortened)
    found: list[int | None] = []
    for n, (start, end) in enumerate(ranges):
        found += [*([None] * len(CUT) if n else []), *range(start, end)]
    leading = len(shortened) - len(shortened.lstrip())
    return found[leading:]
