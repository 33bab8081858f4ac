"""The pipeline's stages: plan the rows, ask the rewriter, and judge its answers."""

import hashlib
import logging
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.generation.filters import Draft, Filters, clean_rewrite, reason_to_reject
from prompt_recovery.generation.instructions import (
    Instruction,
    assign,
    without_near_duplicates,
)
from prompt_recovery.generation.originals import Original
from prompt_recovery.generation.progress import RequestProgress, Tally
from prompt_recovery.generation.store import Remembering, RequestStore, request_key
from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.templates import Template, render

if TYPE_CHECKING:
    from prompt_recovery.metrics.scs import SCS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """One planned row of the dataset.

    Attributes:
        id: Id of the row: the id of the original, a hyphen, and a number that counts the rewrites
            of this original from 1.
        original: The text to rewrite.
        instruction: What the rewriter is told to do with the text.
        seed: Seed of the rewriter's answer, in [0, 2³¹).
    """

    id: str
    original: Original
    instruction: Instruction
    seed: int


def plan(
    originals: Sequence[Original], instructions: Sequence[Instruction], rows: int | None, seed: int
) -> list[Request]:
    """Assigns an original and an instruction to every row.

    This is a pure function of the set of originals, the instructions and the seed. Asking for
    fewer rows gives a subset of the rows that a larger number would give.

    Args:
        originals: Original texts with distinct ids.
        instructions: The instructions to choose from.
        rows: Number of rows, ≥ 1. If there are fewer originals than rows, each original is used
            several times in turn; if there are more, some are not used. None makes one row per
            original.
        seed: Seed of the choices.

    Returns:
        The rows, sorted by id.

    Raises:
        PromptRecoveryError: If there are no instructions.
    """
    count = len(originals) if rows is None else rows
    order = sorted(originals, key=lambda o: o.id)
    random.Random(f"originals-{seed}").shuffle(order)
    chosen = assign(instructions, count, seed)
    requests = []
    for number, index in enumerate(chosen):
        original = order[number % len(order)]
        id_ = f"{original.id}-{number // len(order) + 1}"
        digest = hashlib.sha256(f"{seed}\0{id_}".encode()).digest()
        draw = int.from_bytes(digest[:4], "big") >> 1
        requests.append(Request(id_, original, instructions[index], draw))
    return sorted(requests, key=lambda r: r.id)


def chat_of(request: Request, template: Template) -> Chat:
    """Renders a request as the chat that is sent to the rewriter."""
    content = render(
        template,
        rewrite_prompt=request.instruction.text,
        original_text=request.original.text,
    )
    system = [{"role": "system", "content": template.system}] if template.system else []
    return [*system, {"role": "user", "content": content}]


class Rewriting:
    """The requests of a dataset, together with the answers received so far.

    Args:
        requests: The planned rows.
        template: The rewrite template.
        rewriter: The rewriter to ask when the store has no answer yet.
        store: The store in which this rewriter keeps its answers.
    """

    def __init__(
        self,
        requests: Sequence[Request],
        template: Template,
        rewriter: Remembering,
        store: RequestStore,
    ) -> None:
        self.requests, self._template = requests, template
        self._rewriter, self._store = rewriter, store
        identity = rewriter.identity
        self._keys = [request_key(identity, chat_of(r, template), r.seed) for r in requests]
        self._failures: dict[str, Answer] = {}  # transient failures, which the store does not keep

    def ask(self, chunk: int) -> Tally:
        """Asks the rewriter for all missing answers.

        Args:
            chunk: Number of requests handed to the rewriter at a time. Only these are rendered
                and held in memory.

        Returns:
            Counts of the requests that were made by this call.
        """
        missing = [n for n, key in enumerate(self._keys) if key not in self._store]
        done = len(self._keys) - len(missing)
        if done:
            log.info("%d of %d requests were answered before", done, len(self._keys))
        with RequestProgress("rewriting", len(self._keys), done) as progress:
            self._rewriter.seen = progress
            for start in range(0, len(missing), chunk):
                part = missing[start : start + chunk]
                requests = [self.requests[n] for n in part]
                chats = [chat_of(r, self._template) for r in requests]
                seeds = [r.seed for r in requests]
                for index, answer in self._rewriter.answers(chats, seeds):
                    if answer.error:
                        self._failures[self._keys[part[index]]] = answer
        return progress.tally

    def answers(self) -> Iterator[tuple[Request, Answer]]:
        """Yields every request with its answer, in order. A failed request's answer has `error`."""
        for request, key in zip(self.requests, self._keys, strict=True):
            answer = self._store.get(key) or self._failures.get(key)
            if answer is None:
                raise RuntimeError(f"request {request.id} has not been asked")
            yield request, answer


def draft_of(request: Request, answer: Answer) -> Draft:
    """Cleans an answer and packs it for the filters."""
    text = clean_rewrite(answer.text)
    return Draft(request.original.text, request.instruction.text, text, answer.finished)


def columns_of(
    request: Request, answer: Answer, rewriter: str, keep_remarks: bool = False
) -> dict[str, str]:
    """Returns the columns of a dataset row, except its split.

    Args:
        request: The request.
        answer: Its answer.
        rewriter: The name of the rewriter.
        keep_remarks: Whether to keep what an answer says to the user.
    """
    draft = draft_of(request, answer)
    columns = {
        "id": request.id,
        "original_text": request.original.text,
        "rewritten_text": answer.text.strip() if keep_remarks else draft.text,
        "rewrite_prompt": request.instruction.text,
        "category": request.instruction.family,
        "rewriter": rewriter,
        "source": request.original.source,
    }
    # A model may produce half a surrogate pair, which cannot be encoded. Filters reject such a row.
    return {name: text.encode(errors="replace").decode() for name, text in columns.items()}


Likelier = Callable[[Sequence[RewriteExample]], Sequence[float]]
"""Gives the share of other prompts that fit better than each example's own."""


def judge(
    rewriting: Rewriting, limits: Filters, scs: "SCS | None", likelier: Likelier | None = None
) -> list[str]:
    """Returns for each row, in order, the reason to reject it, or "" to keep it.

    Args:
        rewriting: The requests, all of which must have been asked.
        limits: Thresholds of the filters.
        scs: The metric, needed only if `limits.duplicate_scs` is set.
        likelier: See `likelier_prompts`; needed only if `limits.ignored` is set.
    """
    reasons: list[str] = []
    known: set[bytes] = set()
    for request, answer in rewriting.answers():
        if answer.error:
            reasons.append(f"failed_{answer.error}")
            continue
        draft = draft_of(request, answer)
        reason = reason_to_reject(draft, limits)
        if not reason:
            key = hashlib.blake2b(draft.plain.encode(), digest_size=16).digest()
            reason = "duplicate" if key in known else ""
            known.add(key)
        reasons.append(reason)
    if limits.duplicate_scs is not None and scs is not None:
        for n in _near_duplicates(_kept(rewriting, reasons), scs, limits.duplicate_scs):
            reasons[n] = "duplicate"
    if limits.ignored is not None and likelier is not None:
        kept = _kept(rewriting, reasons)
        for n, share in zip(kept, likelier(list(kept.values())) if kept else [], strict=True):
            if share > limits.ignored:
                reasons[n] = "ignored"
    return reasons


def _kept(rewriting: Rewriting, reasons: Sequence[str]) -> dict[int, RewriteExample]:
    """The rows that have no reason yet, by their number."""
    return {
        n: RewriteExample(r.id, r.original.text, draft_of(r, answer).text, r.instruction.text)
        for n, (r, answer) in enumerate(rewriting.answers())
        if not reasons[n]
    }


def _near_duplicates(rows: Mapping[int, RewriteExample], scs: "SCS", most: float) -> list[int]:
    texts = [Instruction(row.rewritten_text, str(n), "") for n, row in rows.items()]
    dropped = without_near_duplicates(texts, scs, most)[1] if texts else []
    return [int(near.family) for near, _ in dropped]
