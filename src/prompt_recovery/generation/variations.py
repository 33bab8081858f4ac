"""Variations of instructions, reworded by an LLM."""

import hashlib
import logging
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from prompt_recovery.data.splits import normalise
from prompt_recovery.generation.filters import Draft, Filters, is_broken, is_refusal
from prompt_recovery.generation.instructions import Instruction
from prompt_recovery.recovery.cleaning import clean_prompt
from prompt_recovery.rewriters.base import Answer, Chat, Rewriter, in_order

if TYPE_CHECKING:
    from prompt_recovery.metrics.scs import SCS

log = logging.getLogger(__name__)

_MOST_WORDS = 40
# SCS with the instruction. Good rewordings have 0.05 to 0.9, nonsense often has 0.00.
_LEAST_SCS = 0.04
_EXAMPLES = ("Make it sound sadder.", "Put this into a letter from a soldier to his sister.")
_WAYS = {  # each way to reword, with its answers to the two examples
    "in other words": (
        "Give the text a more sorrowful note.",
        "Let a soldier tell his sister all this by post.",
    ),
    "in fewer words": ("Sadder, please", "As a soldier's letter to his sister"),
    "as a question": (
        "Could you rewrite this so that it feels sadder?",
        "How would a soldier write this to his sister?",
    ),
    "casually, as people type in a chat": (
        "make it way sadder pls",
        "do this as a letter, soldier to his sister",
    ),
    "politely and formally": (
        "Kindly rephrase the passage in a more mournful tone.",
        "I should be grateful if you would recast this as a soldier's letter to his sister.",
    ),
    "with more detail of what is wanted": (
        "Rewrite this in a much sadder tone, as if the writer were close to tears.",
        "Turn this into a letter from a soldier to his sister, tender at first and homesick "
        "towards the end.",
    ),
}
# Words that show that a model talks about its task or repeats the examples.
_CHATTER = re.compile(
    r"\b(?:requests?|requested|rewording|reword(?:ed)?|instructions?|let me know|dear|soldier"
    r"|sister)\b",
    re.IGNORECASE,
)


def variations(
    rewriter: Rewriter,
    instructions: Sequence[Instruction],
    per_instruction: int,
    seed: int,
    scs: "SCS | None" = None,
) -> list[Instruction]:
    """Asks a rewriter to reword each instruction several times, each time in a different way.

    Answers that are not an instruction (too long or too short, cut off, a refusal, talk about the
    task) and answers that repeat an instruction or an earlier answer are left out. Their number is
    logged.

    Args:
        rewriter: The model that rewords.
        instructions: The instructions to reword.
        per_instruction: Number of requests for each instruction, ≥ 0.
        seed: Part of the seed of each request.
        scs: If given, answers that have nothing in common with their instruction are left out too.

    Returns:
        At most `per_instruction` variations of each instruction, in the same order and with the
        same families.
    """
    asked = [(i, number) for i in instructions for number in range(per_instruction)]
    ways = list(_WAYS)
    chats, seeds = [], []
    for instruction, number in asked:
        # Each instruction starts with another way, so that all ways are used even if there is only
        # one variation per instruction.
        first = _number(seed, instruction.text)
        chats.append(_chat(instruction.text, ways[(first + number) % len(ways)]))
        seeds.append(_number(seed, number, instruction.text))
    known = {normalise(i.text) for i in instructions}
    # A model may repeat the answer to an example.
    known |= {normalise(text) for texts in (_EXAMPLES, *_WAYS.values()) for text in texts}
    found: list[tuple[Instruction, str]] = []
    said = ""
    for (instruction, _), answer in zip(asked, in_order(rewriter, chats, seeds), strict=True):
        said = answer.detail or said
        text = reworded(answer, instruction.text)
        if text and normalise(text) not in known:
            known.add(normalise(text))
            found.append((Instruction(text, instruction.family, "variation"), instruction.text))
    if scs is not None:
        scores = scs([new.text for new, _ in found], [text for _, text in found])
        found = [pair for pair, s in zip(found, scores, strict=True) if s >= _LEAST_SCS]
    if not found and said:
        log.warning("no variation of an instruction could be used; the last answer was: %s", said)
    log.info("variations of instructions: kept %d of %d answers", len(found), len(asked))
    return [new for new, _ in found]


def _number(*parts: int | str) -> int:
    """Hashes the parts to a number in [0, 2³¹)."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


def _chat(instruction: str, way: str) -> Chat:
    """Returns a chat with two examples of rewording, followed by the instruction to reword."""
    chat: Chat = []
    for text, answer in zip((*_EXAMPLES, instruction), (*_WAYS[way], ""), strict=True):
        content = f"Say this {way}, and say nothing else:\n\n{text}"
        chat.append({"role": "user", "content": content})
        chat.append({"role": "assistant", "content": answer})
    return chat[:-1]


def reworded(answer: Answer, instruction: str) -> str:
    """Extracts the rewording of an instruction from an answer; empty if there is none."""
    text = clean_prompt(answer.text)
    draft = Draft("", "", text, answer.finished)
    unusable = answer.error or not answer.finished or is_refusal(draft, Filters())
    if unusable or is_broken(draft, Filters()) or not 2 <= len(text.split()) <= _MOST_WORDS:
        return ""
    chatter = _CHATTER.search(text)
    return "" if chatter and chatter[0].lower() not in instruction.lower() else text
