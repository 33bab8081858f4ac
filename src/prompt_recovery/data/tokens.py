"""Examples as token ids, made once and cached."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prompt_recovery.cache import cache_dir, fingerprint, written_whole
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.templates import Template, chat_prompt

_CUT = " […] "


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """Token ids of a recoverer's input and of the answer, and how much of the texts was cut."""

    id: str
    prompt: list[int]
    completion: list[int]
    cut_characters: int


def tokenise(
    examples: Sequence[RewriteExample],
    template: Template,
    tokenizer: Any,
    max_prompt_tokens: int,
    use_cache: bool = True,
) -> list[TokenisedExample]:
    """Renders and tokenises examples, in order.

    A prompt longer than `max_prompt_tokens` has the middle of its texts cut out, the longer text
    first; instruction and completion are never touched. Results are cached on disk by a
    fingerprint of everything they depend on.

    Raises:
        PromptRecoveryError: `max_prompt_tokens` has no room for the template itself.
    """
    key = fingerprint(
        [(e.id, e.original_text, e.rewritten_text, e.rewrite_prompt) for e in examples],
        [template.text, template.chat, template.system, template.prefill],
        [tokenizer.get_chat_template() if template.chat else None, max_prompt_tokens],
        [tokenizer.backend_tokenizer.to_str()],
    )
    path = cache_dir("tokens") / f"{key}.parquet"
    if use_cache and path.is_file():
        try:
            return [TokenisedExample(**row) for row in pq.read_table(path).to_pylist()]
        except (pa.ArrowInvalid, OSError, TypeError):
            path.unlink(missing_ok=True)  # a damaged cache is only slow, never fatal
    rows = _tokenise(examples, template, tokenizer, max_prompt_tokens)
    if use_cache and rows:
        columns = {name: [getattr(r, name) for r in rows] for name in TokenisedExample.__slots__}
        with written_whole(path) as temporary:
            pq.write_table(pa.table(columns), temporary)
    return rows


def prompt_tokens(
    original_text: str, rewritten_text: str, template: Template, tokenizer: Any, limit: int
) -> tuple[list[int], int]:
    """The token ids of one recovery prompt, at most `limit`, and how many characters were cut."""
    before, after = original_text, rewritten_text
    # A hundred thousand characters cannot fit: don't tokenise them all to find out. No text here
    # has more than 16 characters a token on average.
    before, after = _shorten(before, 16 * limit), _shorten(after, 16 * limit)
    while True:
        prompt = chat_prompt(template, tokenizer, original_text=before, rewritten_text=after)
        ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        if len(ids) <= limit:
            cut = max(len(original_text) - len(before), 0) + max(
                len(rewritten_text) - len(after), 0
            )
            return ids, cut
        # Keep in proportion, a little less each time; the longer text gives first.
        keep = int((len(before) + len(after)) * min(limit / len(ids), 0.95)) - 2 * len(_CUT)
        share = keep // 2
        before_keep = max(share, keep - len(after)) if len(before) > share else len(before)
        after_keep = max(share, keep - len(before)) if len(after) > share else len(after)
        if keep < 4 * len(_CUT):
            raise PromptRecoveryError(
                f"data.max_prompt_tokens={limit} has no room for template '{template.name}' "
                f"({len(ids)} tokens with almost empty texts); raise it"
            )
        before, after = _shorten(before, before_keep), _shorten(after, after_keep)


def _shorten(text: str, length: int) -> str:
    """`text` with its middle cut out, two thirds of what stays from its beginning."""
    if len(text) <= length:
        return text
    keep = max(length - len(_CUT), 2)
    tail = keep // 3
    return text[: keep - tail] + _CUT + text[len(text) - tail :]


def _tokenise(
    examples: Sequence[RewriteExample], template: Template, tokenizer: Any, limit: int
) -> list[TokenisedExample]:
    end = tokenizer.eos_token_id
    rows = []
    for example in examples:
        prompt, cut = prompt_tokens(
            example.original_text, example.rewritten_text, template, tokenizer, limit
        )
        answer = tokenizer(example.rewrite_prompt.strip(), add_special_tokens=False)["input_ids"]
        rows.append(TokenisedExample(example.id, prompt, [*answer, end], cut))
    return rows
