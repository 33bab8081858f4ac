"""Examples as token ids, which are cached on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import MALFORMED, atomic_write, cache_dir, fingerprint
from prompt_recovery.tables import counted
from prompt_recovery.templates import (
    Template,
    accepted_messages,
    chat_tokens,
    special_tokens,
    text_tokens,
)
from prompt_recovery.templates import prompt_tokens as template_tokens
from prompt_recovery.terminal import announced

CUT = " […] "
"""What stands in place of the middle of a text that was cut out."""
_VERSION = 2  # of the rules by which texts become tokens, for the cache
_LEAST = 2 * (len(CUT) + 2)  # characters of two texts that are cut to their first and last


@dataclass(frozen=True, slots=True)
class TokenisedExample:
    """The token ids of a recoverer's input and of its completions.

    Attributes:
        id: The example's id.
        prompt: The token ids of the input.
        completions: The token ids of each completion, which end with the end-of-text token.
        cut_characters: The number of characters that were cut out of the two texts.
    """

    id: str
    prompt: list[int]
    completions: list[list[int]]
    cut_characters: int

    def __len__(self) -> int:
        return len(self.prompt) + sum(map(len, self.completions))


def tokenise(
    examples: Sequence[RewriteExample],
    template: Template,
    tokenizer: Any,
    max_prompt_tokens: int,
    completions: Sequence[Sequence[str]] | None = None,
    use_cache: bool = True,
) -> list[TokenisedExample]:
    """Renders and tokenises examples, in order.

    If a prompt is longer than `max_prompt_tokens`, the middle of its texts is cut out, first of
    the longer text; the instruction and the completions are never cut. The results are cached on
    disk under a fingerprint of everything they depend on.

    Args:
        examples: The examples whose two texts make the prompts.
        template: The recovery template.
        tokenizer: The backbone's tokenizer.
        max_prompt_tokens: The largest number of tokens in a prompt.
        completions: The completions of each example; by default its true prompt alone.
        use_cache: Whether to read and write the cache.

    Raises:
        PromptRecoveryError: If `max_prompt_tokens` has no room for the template itself.
    """
    if completions is None:
        completions = [[e.rewrite_prompt] for e in examples]
    key = fingerprint(
        _VERSION,
        [(e.id, e.original_text, e.rewritten_text) for e in examples],
        [list(c) for c in completions],
        [template.text, template.chat, template.system, template.prefill],
        [tokenizer.get_chat_template() if template.chat else None, max_prompt_tokens],
        [tokenizer.backend_tokenizer.to_str()],
    )
    path = cache_dir("tokens") / f"{key}.parquet"
    if use_cache:
        kept = _kept(path, [(e.id, len(c)) for e, c in zip(examples, completions, strict=True)])
        if kept is not None:
            return kept
    rows = []
    with announced(f"tokenising {counted(len(examples), 'example')}"):
        for example, texts in zip(examples, completions, strict=True):
            prompt, cut = prompt_tokens(
                example.original_text,
                example.rewritten_text,
                template,
                tokenizer,
                max_prompt_tokens,
            )
            answers = [completion_tokens(text, tokenizer) for text in texts]
            rows.append(TokenisedExample(example.id, prompt, answers, cut))
    if use_cache and rows:
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns = {name: [getattr(r, name) for r in rows] for name in TokenisedExample.__slots__}
        with atomic_write(path) as temporary:
            pq.write_table(pa.table(columns), temporary, write_page_checksum=True)
    return rows


def _kept(path: Path, expected: Sequence[tuple[str, int]]) -> list[TokenisedExample] | None:
    """Reads rows from the cache. A damaged file only costs time.

    Args:
        path: The file.
        expected: The id of each row and the number of its completions.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, page_checksum_verification=True)
        prompts, completions = (table.schema.field(n).type for n in ("prompt", "completions"))
        tokens = (prompts.value_type, completions.value_type.value_type)
        if not all(map(pa.types.is_integer, tokens)):
            return None
        rows = [TokenisedExample(**row) for row in table.to_pylist()]
        whole = all(row.prompt and all(row.completions) for row in rows)
        return rows if whole and [(r.id, len(r.completions)) for r in rows] == expected else None
    except (pa.ArrowException, OSError, *MALFORMED):
        return None


def completion_tokens(text: str, tokenizer: Any) -> list[int]:
    """The token ids of an answer, followed by the end-of-text token."""
    return [*text_tokens(text.strip(), tokenizer), int(tokenizer.eos_token_id)]


def without_end(text: str, tokenizer: Any) -> str:
    """An answer without the special tokens that a chat template has put at its end."""
    ends = tuple(special_tokens(tokenizer).texts)
    text = text.strip()
    while text.endswith(ends):
        text = text.removesuffix(next(end for end in ends if text.endswith(end))).rstrip()
    return text


def given_prompt_tokens(
    prompt: str | list[dict[str, str]], tokenizer: Any, limit: int
) -> tuple[list[int], int]:
    """Tokenises a finished prompt, and cuts out its middle if it has more than `limit` tokens.

    A text is the whole input of the model, in which special tokens keep their meaning; if it begins
    with the beginning-of-text token, no other one is added. The contents of messages are data.

    Returns:
        The token ids and the number of characters that were cut.
    """
    if isinstance(prompt, str):
        ids: list[int] = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        begin = tokenizer.bos_token_id
        if begin is not None and tokenizer(prompt)["input_ids"][:1] == [begin] != ids[:1]:
            ids = [begin, *ids]
    else:
        ids = chat_tokens(accepted_messages(prompt, tokenizer), tokenizer)
    if len(ids) <= limit:
        return ids, 0
    tail = limit // 2
    start, end = limit - tail, len(ids) - tail
    return ids[:start] + ids[end:], len(tokenizer.decode(ids[start:end]))


def prompt_tokens(
    original_text: str, rewritten_text: str, template: Template, tokenizer: Any, limit: int
) -> tuple[list[int], int]:
    """Tokenises one recovery prompt with at most `limit` tokens.

    Returns:
        The token ids and the number of characters that were cut out of the two texts.
    """
    ids, before, after = fitted(original_text, rewritten_text, template, tokenizer, limit)
    cut = max(len(original_text) - len(before), 0) + max(len(rewritten_text) - len(after), 0)
    return ids, cut


def fitted(
    original_text: str, rewritten_text: str, template: Template, tokenizer: Any, limit: int
) -> tuple[list[int], str, str]:
    """Cuts out the middle of two texts until their recovery prompt has at most `limit` tokens.

    Returns:
        The token ids of the prompt, and the original and the rewritten text as far as it holds
        them; `kept_ranges` says which parts these are.
    """
    before, after = original_text, rewritten_text
    # Very long texts are shortened before they are tokenised, which would take long: no text has
    # more than 16 characters per token on average.
    before, after = _shorten(before, 16 * limit), _shorten(after, 16 * limit)
    while True:
        ids = template_tokens(template, tokenizer, original_text=before, rewritten_text=after)
        if len(ids) <= limit:
            return ids, before, after
        # Shorten in proportion, a little more each time, and the longer text first.
        total = len(before) + len(after)
        kept = int(total * min(limit / len(ids), 0.95))
        keep = kept - 2 * len(CUT)
        if keep < 4 * len(CUT):  # characters that take several tokens each
            keep = max(kept, _LEAST)
        share = keep // 2
        before_keep = max(share, keep - len(after)) if len(before) > share else len(before)
        after_keep = max(share, keep - len(before)) if len(after) > share else len(after)
        if total <= _LEAST:
            raise PromptRecoveryError(
                f"batching.max_prompt_tokens={limit} has no room for template '{template.name}' "
                f"({len(ids)} tokens with almost empty texts); raise it"
            )
        before, after = _shorten(before, before_keep), _shorten(after, after_keep)


def _shorten(text: str, length: int) -> str:
    """Cuts out the middle of a text; two thirds of what stays are from its beginning."""
    if len(text) <= length:
        return text
    keep = max(length - len(CUT), 2)
    tail = keep // 3
    return text[: keep - tail] + CUT + text[len(text) - tail :]


def kept_ranges(text: str, shortened: str) -> list[tuple[int, int]]:
    """Which parts of a text `fitted` has kept, as (start, end) of characters.

    Args:
        text: The text.
        shortened: What `fitted` made of it; two parts are joined by `CUT`.
    """
    if shortened == text:
        return [(0, len(text))]
    keep = len(shortened) - len(CUT)
    tail = keep // 3
    return [(0, keep - tail), (len(text) - tail, len(text))]
