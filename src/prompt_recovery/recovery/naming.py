"""Prompts that name the text that they are about, such as "make this recipe rhyme".

Some people type "make it rhyme", and others "rewrite this recipe so that it rhymes". Which of them
wrote a dataset's prompts is known for pairs like the training data, and not for others. So on
unfamiliar pairs, each candidate shares its votes with the same request in other words, which name
the text by its kind ("this recipe") or call it a text ("this text"). Rules word these requests.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated

from annotated_types import Ge, Lt

from prompt_recovery.data.requests import plain_request
from prompt_recovery.recovery.mbr import in_the_middle
from prompt_recovery.recovery.posterior import Posterior

NamedShare = Annotated[float, Ge(0), Lt(1)]
NAMED = 0.5
"""The share of its votes that a prompt for an unfamiliar pair gives to prompts that name the
text."""
_FAMILIAR = 0.5
"""How familiar a pair is whose prompts give nothing away, as `Joining.trust` measures it."""
_KIND = 0.5
"""The part of this share that names the text by its kind; the rest says "this text"."""
_REWORDED = 32
"""The number of texts that are reworded, those with the most votes."""
_FORMED = 0.15
"""The least share of texts with a known form. For English prompts, it is 0.6 in the median, and
prompts in other languages hardly ever have such a form."""
_BLANK = "\0"

_TEXT = (
    r"(?:(?:the|this|my) (?:whole |entire |given |original )?(?:text|passage)"
    r"|this (?:article|document|e-?mail|essay|excerpt|letter|message|note|notice|paragraph|piece"
    r"|poem|post|report|review|speech|story)\b)"
)
_HOW = (
    r"(?:as|into|in|like|from|for|so|with|to|on|at|by|under|through|using|without|again|down|up"
    r"|the way)\b.*"
)
_KEPT = (  # verbs that also stand before "this recipe"
    r"summari[sz]e|shorten|condense|simplify|explain|translate|paraphrase|rephrase|describe|expand"
    r"|reword|retell|restate|reimagine|rework|recast|convert|transform|transpose|adapt|modify|edit"
    r"|turn|change|rewrite|narrate|reformat|format|redo|polish|improve|present|render"
)
_WRITE = r"write|put|tell|say|do|set|phrase|give|imagine|word|draft|make"
_VERB = rf"(?:(?P<kept>{_KEPT})|(?P<write>{_WRITE}))"
_WORDINGS = (
    (rf"(?P<kept>make|keep|get|put|set|tell) (?:{_TEXT}|it|this|that|everything) (?P<how>.+)", ""),
    (rf"{_VERB} (?:{_TEXT}|it|this|that|everything)(?:,? (?P<how>{_HOW}))?", ""),
    (rf"{_VERB} (?P<how>{_HOW})", ""),
    (rf"(?P<kept>{_KEPT})", ""),
    (rf"(?P<how>{_HOW})", ""),
    (r"(?P<how>(?:an?|one|two|three|four|five|ten) .+)", "as"),
    (r"use (?P<how>.+)", "using"),
)
"""Forms of requests, and the word between the text and how it is to be. The verb is kept, or else
it is "rewrite"."""
_FORMS = tuple((re.compile(form, re.IGNORECASE), word) for form, word in _WORDINGS)
_DEGREE = re.compile(r"(?:more|less|much|way|far|even) .+", re.IGNORECASE)
_MENTION = re.compile(rf"\b(?:it|{_TEXT})\b", re.IGNORECASE)


def reworded(prompt: str, noun: str) -> str | None:
    """The same request with a name for the text, such as "Make this recipe rhyme".

    Args:
        prompt: The request, such as "make it rhyme, please".
        noun: What to call the text, such as "recipe".

    Returns:
        None for a blank prompt, and for one that names the text already.
    """
    said = plain_request(prompt)
    if not said or re.search(rf"\b(?:this|the|my) {re.escape(noun)}\b", said, re.IGNORECASE):
        return None
    named = f"this {noun}"
    return _of_a_form(said, named) or _sentence(f"rewrite {named}:", said)


def _of_a_form(said: str, named: str) -> str | None:
    """The request with a name for the text if it has one of the known English forms."""
    for form, word in _FORMS:
        if found := form.fullmatch(said):
            parts = found.groupdict()
            return _sentence(parts.get("kept") or "rewrite", named, word, parts.get("how"))
    if _DEGREE.fullmatch(said):
        return _sentence("make", named, said)
    if _MENTION.search(said):
        return _sentence(_MENTION.sub(named, said, count=1))
    return None


def named_share(share: float, trust: float) -> float:
    """What is left of a share for a pair, which falls to 0 for one that is half as familiar."""
    return share * max(1 - trust / _FAMILIAR, 0.0)


def is_reworded(text: str, others: Sequence[str]) -> bool:
    """Whether a text is one of the others, reworded with any name for the text."""
    for other in others:
        wording = reworded(other, _BLANK) if other != text else None
        before, _, after = (wording or "").partition(_BLANK)
        longer = len(text) > len(before) + len(after)
        if wording and longer and text.startswith(before) and text.endswith(after):
            return True
    return False


def with_named(
    posterior: Posterior, kind: str | None, share: float = NAMED, trust: float = 0.0
) -> Posterior:
    """The posterior of a pair, whose texts share their votes with prompts that name the original.

    Args:
        posterior: What the sources of a recoverer say about the pair.
        kind: The kind of the original text, such as "recipe"; None if it is not known.
        share: The share of its votes that each text gives away for an unfamiliar pair, in [0, 1).
        trust: How familiar the pair is, in [0, 1]; see `named_share`.
    """
    share = named_share(share, trust)
    if not share or not posterior.texts:
        return posterior
    nouns = {"text": 1.0} if kind is None else {kind: _KIND, "text": 1 - _KIND}
    votes = dict(zip(posterior.texts, posterior.votes, strict=True))
    one_vote = dict(zip(posterior.texts, posterior.one_vote, strict=True))
    family = {text: n for n, text in enumerate(posterior.texts)}
    best = sorted(votes, key=lambda text: -votes[text])[:_REWORDED]
    formed = sum(_of_a_form(plain_request(text), "this text") is not None for text in best)
    if formed < _FORMED * len(best):
        return posterior  # it is in another language
    for text in best:
        others = [(reworded(text, noun), share * part) for noun, part in nouns.items()]
        if any(other is None or other == text for other, _ in others):
            continue  # it names the text already
        own, one = votes[text], one_vote[text]
        for other, part in others:
            assert other is not None
            votes[text] -= part * own
            one_vote[text] -= part * one
            votes[other] = votes.get(other, 0.0) + part * own
            one_vote[other] = max(one_vote.get(other, 0.0), part * one)
            family.setdefault(other, family[text])
    new = (None,) * (len(votes) - len(posterior.texts))
    return replace(
        posterior,
        texts=tuple(votes),
        votes=tuple(votes.values()),
        one_vote=tuple(one_vote[text] for text in votes),
        log_probabilities=(*posterior.log_probabilities, *new),
        mean_log_probabilities=(*posterior.mean_log_probabilities, *new),
        families=tuple(family[text] for text in votes),
    )


def _sentence(*parts: str | None) -> str:
    """Parts of a sentence, of which only the first begins with a capital letter."""
    first, *others = (part for part in parts if part)
    said = " ".join([first, *map(in_the_middle, others)])
    return said[0].upper() + said[1:]
