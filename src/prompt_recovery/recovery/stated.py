"""Prompts that a rewrite states itself, in its lead-in.

Chat models often introduce a rewrite by restating the instruction, as in "Sure, here is the text in
the style of a legal brief:". A careful reader takes such a sentence for what it is. Rules turn it
into prompts, which join the candidates of the recoverer's sources. Nothing here is learned.
"""

import re
from collections.abc import Iterator
from typing import Annotated

from annotated_types import Ge, Lt

from prompt_recovery.recovery.posterior import Posterior, weighted_sum

StatedShare = Annotated[float, Ge(0), Lt(1)]
SHARE = 0.4
"""The share of the votes on an unfamiliar pair that goes to stated prompts, if there are any."""
FAMILIAR = 0.1
"""The part of it that is left for familiar pairs, where the sources know better how prompts are
worded."""

_LONGEST = 250  # characters of a lead-in
_MOST_WORDS = 12  # of a thing
_OPENING = re.compile(
    r"(?:(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|yes|gladly|no problem"
    r"|with pleasure|happy to help|here you (?:go|are))\b[\s,.!:–—-]+)+",
    re.IGNORECASE,
)
_HERE = re.compile(
    r"(?:here(?:['’]s| is| are)|below (?:is|are)|(?:this|these|the following) (?:is|are))\s+",
    re.IGNORECASE,
)
_HERE_IT_IS = re.compile(r"here it is,?\s+", re.IGNORECASE)
_ORDER = re.compile(
    r"(?:i(?:['’]d| would|['’]ll| will) be (?:happy|glad|delighted|pleased) to|i (?:can|will)"
    r"|i['’]ll)\s+(?:help (?:you )?(?:to )?)?(\w.*?)\s*[.!:](?=\s|$)",
    re.IGNORECASE,
)
_NO_ORDER = re.compile(r"(?:help|assist|that|this|it|you|with|do|see|be)\b", re.IGNORECASE)
_NOUN = (
    r"(?:text|passage|paragraph|sentence|story|letter|e-?mail|message|piece|content|article|report"
    r"|entry|poem|song|lyrics|scene|notice|recipe|speech|dialogue|conversation|excerpt|document"
    r"|description|review|essay|statement)s?\b"
)
_THE_TEXT = (
    r"(?:the|your|this|that) (?:(?:given|source|original|provided|above|input|whole|entire) )*"
    + _NOUN
)
_VERSION = (
    r"(?:version|rewrite|rewriting|take|attempt|rephrasing|reformulation|adaptation|rendition"
    r"|rendering|variation|edition|draft)\b"
)
_DONE = (
    r"(?:re-?written|revised|re-?worded|re-?phrased|reworked|recast|retold|told|moved|turned|changed"
    r"|converted|transformed|translated|adapted|reimagined|presented|put|set|made|rendered|restated"
    r"|edited|modified|updated)"
)
_EMPTY = rf"(?:{_DONE}|possible|potential|new|suggested|another|brief|quick|my|little)"
_HOW = r"(?:in|as|into|like|for|from|using|with|without|to|so|that|which|by|through|under|on|at)\b"
_THING = re.compile(
    r"(an?|one|two|three|four|five|six|seven|ten|some|your|the) (.+)$", re.IGNORECASE
)
_NO_THING = re.compile(
    r"(?:result|answer|following|request|response|corrected|final|text|passage|paragraph|sentence"
    r"|piece|content|excerpt|document)s?\b",
    re.IGNORECASE,
)
_WORDS = r"[\w’'-]+(?: [\w’'-]+)*?"
_FOR_YOU = re.compile(
    r",? (?:(?:which |that )?(?:you|we|they) (?:can|could|might|may|should|will)\b.*"
    r"|(?:based on|inspired by) (?:the|your|this|that)\b.*"
    rf"|(?:for|of|on|from) {_THE_TEXT}|for you|as requested)$",
    re.IGNORECASE,
)
_NOTHING = re.compile(
    r"(?:using|with|following|based on) (?:the|your|a few|some) "
    r"(?:given |above |provided )?(?:prompt|instructions?|source|changes|improvements)\b",
    re.IGNORECASE,
)


def with_stated(
    posterior: Posterior, rewritten_text: str, share: float = SHARE, trust: float = 0.0
) -> Posterior:
    """The posterior of a pair, with votes for what the lead-in of its rewrite states.

    Args:
        posterior: What the sources of a recoverer say about the pair.
        rewritten_text: The rewritten text.
        share: The share of all votes that the stated prompts have together on an unfamiliar pair,
            in [0, 1).
        trust: How familiar the pair is, in [0, 1]; see `Joining.trust`.
    """
    prompts = stated_prompts(rewritten_text)
    if not prompts or not share:
        return posterior
    share *= 1 - trust * (1 - FAMILIAR)
    told = Posterior.of_weights(prompts, [1.0] * len(prompts))
    return weighted_sum([(posterior, 1 - share), (told, share)])


def stated_prompts(rewritten_text: str) -> list[str]:
    """The prompts that the first line of a rewrite states, the likeliest first; often none."""
    line = rewritten_text.strip().split("\n", 1)[0].strip().lstrip('*_#"“ ').rstrip('*_" ')
    if len(line) > _LONGEST:
        return []
    opening = _OPENING.match(line)
    said = line[opening.end() :] if opening else line
    if order := _ORDER.match(said):
        what = _clean(re.sub(_THE_TEXT, "this", order[1], flags=re.IGNORECASE))
        if " " in what and not _NO_ORDER.match(what):
            return [what[0].upper() + what[1:]]
        said = said[order.end() :].lstrip()
    if it := _HERE_IT_IS.match(said):
        return list(_changes(said[it.end() :])) if said.endswith(":") else []
    here = _HERE.match(said)
    what = _clean(said[here.end() if here else 0 :])
    introduces = said.endswith(":") or (here is not None and said.endswith("!"))
    named = here is not None or re.match(r"(?:an?|one|the|your|in|as|with) ", what, re.IGNORECASE)
    if not introduces or not named or not (opening or here):
        return []
    return list(dict.fromkeys(_prompts(what)))


def _prompts(what: str) -> Iterator[str]:
    """The prompts for what a rewrite is said to be, such as "a shorter version of the text"."""
    text = rf"(?:(?:the |your )?(?:{_EMPTY} )*(?:{_THE_TEXT}|{_NOUN})|it\b),?\s*(.*)$"
    if found := re.match(text, what, re.IGNORECASE):
        yield from _changes(found[1]) if found[1] else _things(what)
    elif re.match(rf"{_HOW} ", what, re.IGNORECASE):
        yield from _changes(what)
    elif found := re.match(r"how (.+?) (?:might|would|could) (\w+)\b(.*)$", what, re.IGNORECASE):
        if found[1].lower() == "it":
            yield from _changes(found[3])
        else:
            yield f"Rewrite this as {found[1]} would {found[2]}{found[3]}"
    elif found := re.match(
        rf"(?:an?|the|your|my) ((?:[\w’'-]+,? )*?){_VERSION}(.*)$", what, re.IGNORECASE
    ):
        of = rf"^ (?:of|for|at|on)(?: {_DONE})? (?:(?:the|your|this) {_WORDS}|it)(?= {_HOW}|,|$)"
        yield from _changes(re.sub(of, "", found[2], count=1, flags=re.IGNORECASE))
        kind = _clean(re.sub(rf"\b{_EMPTY}\b ?", "", found[1], flags=re.IGNORECASE))
        if kind and not re.fullmatch(r"(?:source|text|short|final|full)", kind, re.IGNORECASE):
            yield f"Make this {kind}"
    elif found := re.match(
        rf"(?:the|your) {_WORDS},? ((?:{_DONE}|in|as|like|into|from)\b .+)$", what, re.IGNORECASE
    ):
        yield from _changes(found[1])
    else:
        yield from _things(what)


def _things(what: str) -> Iterator[str]:
    """The prompts for a thing, such as "a riddle for your guests"."""
    what = _clean(_FOR_YOU.sub("", what))
    what = re.sub(rf"^((?:an?|the|your) )?(?:{_EMPTY} )+", r"\1", what, flags=re.IGNORECASE)
    found = _THING.match(what)
    if not found or len(what.split()) > _MOST_WORDS:
        return
    thing = found[2]
    known = found[1].lower() in ("your", "the")
    if _NO_THING.match(thing):
        return
    if known and (len(thing.split()) > 3 or re.search(r"\b(?:is|are)$", thing)):
        return
    if not known:
        thing = f"{found[1].lower()} {thing}"
    elif not thing.endswith("s"):
        thing = f"{'an' if thing[0].lower() in 'aeiou' else 'a'} {thing}"
    yield f"Turn this into {thing}"


def _changes(said: str) -> Iterator[str]:
    """The prompts for what was done to the text, such as "rewritten in plain English"."""
    done = rf"^[\s,]*(?:{_DONE}[\s,]+(?={_HOW}|{_DONE}))*"
    how = _clean(re.sub(done, "", said, flags=re.IGNORECASE))
    how = _clean(_FOR_YOU.sub("", f" {how}"))
    if not re.match(rf"{_HOW} ", how, re.IGNORECASE) or _NOTHING.match(how):
        return
    how = how[0].lower() + how[1:]
    if found := re.match(r"(?:that|which)(?: is| are| sounds| reads|['’]s) (.+)$", how):
        yield f"Make this {found[1]}"
    elif found := re.match(r"(?:that|which) (.+)$", how):
        yield f"Rewrite this so that it {found[1]}"
    else:
        yield f"Rewrite this {how}"


def _clean(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip(" ,.;:!–—-*_\"'“”")
