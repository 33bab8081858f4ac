"""Lead-ins: what chat models say before a rewrite, as in "Sure, here is the text as a limerick:".

Cleaned datasets have no lead-ins and others have many, which often restate the instruction. A
recoverer that was trained without them takes a lead-in for a part of the rewrite.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import replace

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.requests import plain_request
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import fingerprint

_OPENINGS = ("Sure, ", "Sure! ", "Certainly! ", "Of course! ", "Absolutely! ", "Okay, ", "", "")
_SILENT = (
    "here is the rewritten text:",
    "here's the rewritten version:",
    "here is my attempt at rewriting the text:",
    "here's a rewritten version of the text:",
    "here is a possible rewrite:",
    "I'd be happy to help you with that! Here's my attempt:",
)
# {} says what the text was to become, such as "like a nature documentary".
_CHANGED = (
    "here is the text rewritten {}:",
    "here's a rewritten version of the text {}:",
    "here's the text {}:",
    "here is the passage, rewritten {}:",
    "here is my attempt at rewriting it {}:",
)
# {} is a thing, such as "a limerick about the flood", or "a sadder version of the text".
_MADE = ("here is {}:", "here's {}:", "this is {}:", "below is {}:")
# {} is an order, such as "narrate it like a nature documentary".
_OBEYED = (
    "I'd be happy to {}. Here's my attempt:",
    "I can {}. Here it is:",
    "I'd be glad to help you {}! Here is the result:",
)
_NAMED = ('here is the text, rewritten to the instruction "{}":', "here is the text, {}:")
_RESTATES = 0.7  # the share of lead-ins that restate the instruction

_THE_TEXT = r"(?:it|this|that|everything|(?:the|this|my) (?:whole )?(?:text|passage|piece|message))"
_CHANGE = re.compile(
    rf"^(?:make|turn|rewrite|write|put|tell|retell|convert|change|rephrase|recast|present|do|set"
    rf"|rework|transform|say|phrase|redo|adapt|restate|render|reword) (?:{_THE_TEXT} )?"
    r"((?:as|into|in|like|from|for|so|with|to|how|the way) .+)$",
    re.IGNORECASE | re.DOTALL,
)
_QUALITY = re.compile(
    rf"^make {_THE_TEXT} (?:sound |read |feel |be )?((?!into )[\w' -]{{3,40}})$", re.IGNORECASE
)
_THING = re.compile(
    r"^(?:(?:make|write|give me|draft|create|compose|i need|i want|i'd like) )?"
    r"((?:an?|one|two|three|the) .+)$",
    re.IGNORECASE | re.DOTALL,
)
_ORDER = re.compile(
    r"^(?:rewrite|turn|make|tell|retell|put|give|use|say|explain|imagine|set|convert|change|present"
    r"|recast|rephrase|describe|draft|move|pretend|rework|strip|cut|narrate|add|argue|deliver"
    r"|report|translate|shorten|swap|act|boil|commentate|expand|reimagine|transport|fix|break|build"
    r"|pitch|transform|adapt|write|summarize|summarise|simplify|soften|keep|replace|remove) .+$",
    re.IGNORECASE | re.DOTALL,
)


def lead_in(rewrite_prompt: str, choice: random.Random) -> str:
    """A lead-in that a chat model might write before the rewrite; never empty."""
    opening = choice.choice(_OPENINGS)
    said = _said(rewrite_prompt, choice) if choice.random() < _RESTATES else choice.choice(_SILENT)
    return opening + (said if opening.endswith(", ") else said[0].upper() + said[1:])


def _said(rewrite_prompt: str, choice: random.Random) -> str:
    """Restates a prompt with a phrase that suits its grammatical form."""
    prompt = plain_request(rewrite_prompt)
    first = prompt.split(" ")[0] if prompt else ""
    if first[1:].islower() or len(first) == 1:
        prompt = prompt[0].lower() + prompt[1:]
    if found := _CHANGE.match(prompt):
        return choice.choice(_CHANGED).format(found[1])
    if found := _QUALITY.match(prompt):
        article = "an" if found[1][0].lower() in "aeiou" else "a"
        return choice.choice(_MADE).format(f"{article} {found[1]} version of the text")
    if found := _THING.match(prompt):
        return choice.choice(_MADE).format(found[1])
    if _ORDER.match(prompt):
        return choice.choice(_OBEYED).format(prompt)
    return choice.choice(_NAMED).format(prompt) if prompt else choice.choice(_SILENT)


def with_lead_ins(examples: Sequence[RewriteExample], share: float) -> list[RewriteExample]:
    """Puts a lead-in, on a line of its own, before the rewrites of some examples.

    Which examples are changed, and with which lead-in, depends only on their ids.

    Args:
        examples: The examples; their prompts must be known.
        share: The expected share of examples with a lead-in, in [0, 1].

    Raises:
        PromptRecoveryError: If the share is out of range.
    """
    if not 0 <= share <= 1:
        raise PromptRecoveryError(f"lead_ins={share}: must be in [0, 1]")
    changed = []
    for example in examples:
        choice = random.Random(fingerprint("lead-in", example.id))
        if choice.random() < share:
            said = lead_in(example.rewrite_prompt, choice)
            example = replace(example, rewritten_text=f"{said}\n\n{example.rewritten_text}")  # noqa: PLW2901
        changed.append(example)
    return changed
