"""Filters that decide which rewrites are kept, each a small function with a one-word reason.

The first line of a filter's docstring appears in dataset cards, as the end of a sentence that
begins with "a rewrite that".
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated
from unicodedata import category

from annotated_types import Gt, Le

from prompt_recovery.changes.language import language_of
from prompt_recovery.data.splits import normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import Cosine, Count, NotNegative, checked

_Threshold = Annotated[float, Gt(0), Le(1)]  # 1 turns the filter off


@checked("filters")
@dataclass(frozen=True)
class Filters:
    """Thresholds of the filters.

    Attributes:
        copy: A rewrite is a copy if it has more than this share of its word trigrams in common
            with the original (intersection over union), in (0, 1].
        looping: A rewrite is looping if more than this share of its word 4-grams are repetitions,
            in the whole text or in its last 64 words, in (0, 1].
        min_words: A rewrite with fewer words is too short.
        min_ratio: A rewrite is too short if its length in characters, divided by that of the
            original, is less.
        max_ratio: A rewrite is too long if the same ratio is greater.
        duplicate_scs: A rewrite is a duplicate if its SCS with an earlier rewrite is higher, in
            [-1, 1]. None compares the words only and needs no sentence encoder. Rewrites with the
            same words are always duplicates.
        ignored: A rewrite ignores its prompt if more than this share of the dataset's other prompts
            fit it better, in (0, 1]; see `prompt_recovery.generation.following`. It is measured
            with the retriever of `run=shipped`. None doesn't measure it.
    """

    copy: _Threshold = 0.9
    looping: _Threshold = 0.5
    min_words: Count = 2
    min_ratio: NotNegative = 0.03
    max_ratio: NotNegative = 6.0
    duplicate_scs: Cosine | None = None
    ignored: _Threshold | None = None

    def __post_init__(self) -> None:
        if self.min_ratio >= self.max_ratio:
            raise PromptRecoveryError(
                f"filters.min_ratio={self.min_ratio} and filters.max_ratio={self.max_ratio}: must "
                "be 0 ≤ min_ratio < max_ratio"
            )


@dataclass(frozen=True)
class Draft:
    """A rewrite to be judged.

    Attributes:
        original: The original text.
        prompt: The instruction.
        text: The cleaned rewrite.
        finished: Whether the rewriter stopped by itself, not at the limit of new tokens.
    """

    original: str
    prompt: str
    text: str
    finished: bool = True

    @cached_property
    def plain(self) -> str:
        """The rewrite in lower case, words only."""
        return normalise(self.text)

    @cached_property
    def plain_original(self) -> str:
        """The original in lower case, words only."""
        return normalise(self.original)

    @cached_property
    def plain_prompt(self) -> str:
        """The prompt in lower case, words only."""
        return normalise(self.prompt)


_MORSE = re.compile(r"[.·\-−–—/|\s]*[.·]+[.·\-−–—/|\s]*[\-−–—]+[.·\-−–—/|\s]*")


def is_empty(draft: Draft, _: Filters) -> bool:
    """Contains no letter, no digit, no symbol such as an emoji, and no Morse code."""
    if not draft.finished:
        return False  # `is_cut_off` says why
    if re.search(r"[^\W_]", draft.text) or any(category(c) == "So" for c in draft.text):
        return False
    return len(draft.text.split()) < 3 or _MORSE.fullmatch(draft.text) is None


def is_broken(draft: Draft, _: Filters) -> bool:
    """Contains half a surrogate pair, or a replacement character that the original lacks."""
    if "�" in draft.text and "�" not in draft.original:
        return True
    return bool(re.search("[\ud800-\udfff]", draft.text))


_CANNOT = (
    r"\b(?:i (?:cannot|can't|can not|won't|will not|am unable to|am not able to)"
    r"|i'm (?:unable|not able) to)"
)
_DO = (
    r"(?:help|assist|fulfill?|comply|provide|rewrite|re-write|rephrase|create|generate|write|produce"
    r"|complete|engage|answer|respond|continue|support|do|process|translate)"
)
_TASK = (
    r"(?:requests?|text|passage|content|prompt|instructions?|task|questions?|information|material"
    r"|topics?|input|paragraph|story|poem|conversation|rewrit\w*|anything)"
)
_REFUSAL = re.compile(
    # The object tells a refusal from a story: "I can't help but smile", "I will not answer them".
    rf"{_CANNOT}(?: \w+)? {_DO} (?:\w+ )?(?:with )?(?:this|that|your|the|such|any|an?)?\b"
    rf"(?:[ ]?[\w'-]+){{0,3}}? ?\b{_TASK}\b"
    rf"|{_CANNOT}(?: \w+)? (?:(?:help|assist)(?: you)?(?: with (?:this|that))?|comply"
    r"|(?:do|fulfill?) (?:this|that))(?=[.!,;]|$)"
    rf"|\b(?:sorry|apologi[sz]e),?(?: but)? {_CANNOT} {_DO} (?:this|that|it)(?=[.!,;]|$)"
    r"|\b(?:please|could you|can you)(?: please)? (?:provide|share|paste|send)(?: me)?(?: with)?"
    r" (?:(?:the|your|an?|some|any)(?: \w+){0,2} (?:text|passage|paragraph)\b"
    r"|(?:more|some|any|further|additional) (?:\w+ )?(?:details|context|information)\b)"
    r"|\b(?:no|any) text (?:was|has been) (?:provided|given)\b",
    re.IGNORECASE,
)
_MODEL = r"(?:ai|artificial intelligence|(?:ai |large )?language model|ai (?:model|assistant))"
_AS_A_MODEL = re.compile(
    rf"\bas an? {_MODEL}\b[^.\n]{{0,60}}\bi(?:'m| am)? (?:cannot|can't|can not|don't|do not|won't"
    r"|not|unable|have no|must)\b"
    rf"|\bi(?:'m| am)(?: just| only)? an? {_MODEL}\b",
    re.IGNORECASE,
)
_WANTS_A_MACHINE = re.compile(
    r"\b(?:ai|robot|android|machine|computer|chatbot|assistant|cyborg|program)\b", re.IGNORECASE
)


def is_refusal(draft: Draft, _: Filters) -> bool:
    """Begins with the rewriter's refusal, or with a request for the text."""
    start = draft.text[:300].replace("’", "'")
    original = draft.original.lower().replace("’", "'")
    found = _REFUSAL.search(start)
    if found is None and not _WANTS_A_MACHINE.search(draft.prompt):
        found = _AS_A_MODEL.search(start)
    return found is not None and found[0].lower() not in original


_MARKERS = re.compile(
    r"<\|?/?(?:im_start|im_end|start_of_turn|end_of_turn|endoftext|end_of_text|begin_of_text"
    r"|start_header_id|end_header_id|eot_id|eos|bos|pad|unk|user|assistant|system)\|?>"
    r"|</s>|\[/?INST\]|<</?SYS>>|^#{1,4} ?(?:instruction|response|input|assistant|user)\b"
    r"|\A(?:assistant|model|user|system) *(?::|\n)"
    r"|^\W{0,3}(?:original|rewritten|input|output) ?text\W{0,3}:"
    r"|^\W{0,3}rewrite prompt\W{0,3}:",
    re.IGNORECASE | re.MULTILINE,
)
# A recipe has "Instructions:", a job posting "Your task:" and a quiz "Prompt:", too.
_LABEL = re.compile(
    r"^\W{0,3}(?:instructions?|your task|prompt)\W{0,3}:(\W{0,6}[^\n]{0,300})",
    re.IGNORECASE | re.MULTILINE,
)
_ASKS_FOR_A_REWRITE = re.compile(
    r"\b(?:re-?write|re-?writing|rephrase|paraphrase|re-?tell|summari[sz]e|translate"
    r"|(?:say|tell) (?:it|this|that)"
    r"|(?:this|the|following|original|given) (?:text|passage|paragraph))\b",
    re.IGNORECASE,
)


def is_leaked(draft: Draft, _: Filters) -> bool:
    """Contains the prompt itself, a chat template's markers, or a label like "Original text:"."""
    original = draft.original.lower()
    for found in _MARKERS.finditer(draft.text):
        if found[0].strip().lower() not in original:
            return True
    for found in _LABEL.finditer(draft.text):
        if found[0].strip().lower() not in original and _repeats(found[1], draft.plain_prompt):
            return True
    prompt = draft.plain_prompt
    if prompt not in draft.plain or prompt in draft.plain_original:
        return False
    return len(prompt) >= 30 or (len(prompt.split()) >= 4 and _is_a_sentence(prompt, draft.text))


def _is_a_sentence(prompt: str, text: str) -> bool:
    """Returns whether a prompt fills a line or a sentence of a text, or ends at a colon.

    Within a sentence, a rewrite may well have the words of a short one, such as "Once upon a time".
    """
    return any(normalise(part) == prompt for part in re.split(r"[.!?:\n]", text))


def _repeats(text: str, prompt: str) -> bool:
    """Returns whether a text asks for a rewrite, or consists mostly of the words of the prompt."""
    if _ASKS_FOR_A_REWRITE.search(text):
        return True
    words, known = normalise(text).split(), set(prompt.split())
    return len(words) >= 2 and sum(word in known for word in words) >= 0.6 * len(words)


def is_copy(draft: Draft, limits: Filters) -> bool:
    """Equals the original, or nearly."""
    # Case and punctuation count: the prompt may ask for capitals only, or for an emoji after every
    # sentence.
    words, original = (
        unicodedata.normalize("NFC", text).split() for text in (draft.text, draft.original)
    )
    if words == original:
        return True
    ours, theirs = _runs(words, 3), _runs(original, 3)
    if len(ours) < 4 or abs(len(ours) - len(theirs)) > len(ours):
        return False
    shared = (ours & theirs).total()
    return shared > limits.copy * (ours.total() + theirs.total() - shared)


_WANTS_REPETITION = re.compile(
    r"\b(?:songs?|chorus|refrain|lyrics|chant|mantra|rap|nursery|lullaby|anthem|shanty|hymn"
    r"|repeat\w*)\b",
    re.IGNORECASE,
)
_REPETITIVE = 0.8  # the threshold for what is meant to repeat itself, if it is higher


def is_looping(draft: Draft, limits: Filters) -> bool:
    """Repeats itself over and over."""
    words = draft.plain.split()
    most = limits.looping
    if _WANTS_REPETITION.search(draft.prompt):
        most = max(most, _REPETITIVE)
    for part in (words, words[-64:]):
        runs = _runs(part, 4)
        if len(part) >= 16 and runs.total() - len(runs) > most * runs.total():
            return True
    return re.search(r"([^\s\-_=*.~#])\1{29}", draft.text) is not None


def is_cut_off(draft: Draft, _: Filters) -> bool:
    """Was cut off at the limit of new tokens."""
    return not draft.finished


_SCRIPTS = {
    "Latin": "A-Za-zÀ-ɏ",
    "Greek": "Ͱ-Ͽ",
    "Cyrillic": "Ѐ-ӿ",
    "Hebrew": "\u0590-\u05ff",
    "Arabic": "\u0600-\u06ff",
    "Devanagari": "\u0900-\u097f",
    "Thai": "\u0e00-\u0e7f",
    "Hangul": "\uac00-\ud7af",
    "Kana and Han": "\u3040-\u30ff\u3400-\u9fff",
}
_OUTSIDE = {name: re.compile(f"[^{letters}]") for name, letters in _SCRIPTS.items()}
_WANTS_A_LANGUAGE = re.compile(
    r"translat|language|bilingual|tongue|cipher|code|\b(?:english|french|german|spanish|italian"
    r"|portuguese|dutch|latin|greek|russian|ukrainian|polish|czech|turkish|arabic|hebrew|hindi"
    r"|chinese|mandarin|japanese|korean|thai|swedish|norwegian|danish|finnish|esperanto|welsh"
    r"|gaelic|irish|scots|klingon|elvish|spanglish|franglais|denglisch)\b",
    re.IGNORECASE,
)


def is_in_another_language(draft: Draft, _: Filters) -> bool:
    """Is in another language than the original, and the prompt names none."""
    if _WANTS_A_LANGUAGE.search(draft.prompt):
        return False
    before, after = _script(draft.original), _script(draft.text)
    if before and after and before != after:
        return True
    if before != "Latin" or after != "Latin":
        return False
    spoken, answered = language_of(draft.original), language_of(draft.text)
    return bool(spoken and answered and spoken != answered)


def _script(text: str) -> str:
    """Returns the script of most letters, or "" if there are few letters or no clear majority."""
    latin = len(_OUTSIDE["Latin"].sub("", text))
    if latin >= 8 and (text.isascii() or latin > len(text) / 2):
        return "Latin"
    counts = {name: len(outside.sub("", text)) for name, outside in _OUTSIDE.items()}
    script = max(counts, key=lambda name: counts[name])
    return script if counts[script] >= max(8, 0.6 * sum(counts.values())) else ""


_UNSPACED = ("Thai", "Kana and Han")
_WANTS_ONE_WORD = re.compile(r"\b(?:one|a single|1)[ -]word\b", re.IGNORECASE)


def is_too_short(draft: Draft, limits: Filters) -> bool:
    """Has fewer words or characters than the filters ask for."""
    words = len(draft.text.split())
    spaced = re.search(r"[^\W_]", draft.text) and _script(draft.text) not in _UNSPACED
    few = spaced and words < limits.min_words and not _WANTS_ONE_WORD.search(draft.prompt)
    if few:
        return True
    return len(draft.text) < limits.min_ratio * len(draft.original)


def is_too_long(draft: Draft, limits: Filters) -> bool:
    """Has more characters than the filters allow."""
    return len(draft.text) > limits.max_ratio * len(draft.original)


CHECKS: dict[str, Callable[[Draft, Filters], bool]] = {
    "empty": is_empty,
    "broken": is_broken,
    "refusal": is_refusal,
    "leaked": is_leaked,
    "copy": is_copy,
    "looping": is_looping,
    "cut_off": is_cut_off,
    "language": is_in_another_language,
    "too_short": is_too_short,
    "too_long": is_too_long,
}
"""Maps each reason to its filter, in the order in which the filters are applied."""


def reason_to_reject(draft: Draft, limits: Filters) -> str:
    """Returns the first reason to reject a rewrite, or "" if there is none."""
    return next((reason for reason, check in CHECKS.items() if check(draft, limits)), "")


_YES = r"(?:sure(?: thing)?|certainly|of course|absolutely|okay|ok|no problem|gladly)"
_HERE = r"(?:here(?:'s|’s| is| are)|below is|the following is)"
_REWRITE = (
    r"(?:re-?writ\w*|re-?phras\w*|revis\w*|version|text|passage|paragraph|edit\w*|updated"
    r"|translat\w*|summar\w*|response|draft|attempt)"
)
_LEAD_IN = re.compile(
    r"\A[*_#>\s]*(?:"
    rf"{_YES}[!.]"
    rf"|{_YES}\b[^\n]{{0,200}}\b(?:{_HERE}|happy to|glad to|i can|i'll|i will|{_REWRITE})\b"
    r"[^\n]{0,160}[:.!]"
    rf"|{_HERE}\b[^\n]{{0,160}}\b{_REWRITE}\b[^\n]{{0,120}}:"
    r"|(?:the )?(?:rewritten|revised|edited|updated)(?: \w+){0,3}:"
    r")[*_ \t]{0,40}\n\s*",
    re.IGNORECASE,
)
_INLINE_LEAD_IN = re.compile(
    rf"\A(?:{_YES}[,!.] )?{_HERE}[^\n:]{{0,60}}\b"
    r"(?:rewritten|revised|rephrased|version|rewrite)\b[^\n:]{0,60}:\s*",
    re.IGNORECASE,
)
_CLOSING = re.compile(
    r"[^\n]{0,40}\b(?:i hope (?:this|that|it) (?:helps|works|meets|is what)"
    r"|let me know if (?:you(?:'d|’d| would) (?:like|prefer)|you (?:need|want)|there)"
    r"|(?:please )?feel free to (?:adjust|modify|edit)"
    r"|would you like me to|is there anything else)",
    re.IGNORECASE,
)
_INVITATION = re.compile(  # in a letter, it is the writer's
    r"[^\n]{0,40}\b(?:let me know if you have|(?:please )?feel free to (?:ask|reach out))",
    re.IGNORECASE,
)
_LETTER = re.compile(r"\A\W{0,3}(?:dear|hi|hello|hey|subject|to|good (?:morning|evening))\b", re.I)


def _without_closing(text: str) -> str:
    """Returns a text without a last paragraph of one line that offers the user more help."""
    before, _, last = text.rpartition("\n")
    kept = before.rstrip()
    if "\n" not in before[len(kept) :]:
        return text
    offers = _CLOSING.match(last) or (not _LETTER.match(text) and _INVITATION.match(last))
    return kept if offers else text


def clean_rewrite(text: str) -> str:
    """Strips from an answer everything that is addressed to the user.

    Lead-ins ("Sure, here is the rewritten text:"), closing offers ("Let me know if you'd like …")
    and quotation marks around the whole text are removed. They are not part of the rewrite, and a
    lead-in often reveals the instruction.
    """
    text = text.strip()
    without = _LEAD_IN.sub("", text, count=1)
    text = (without if without != text else _INLINE_LEAD_IN.sub("", text, count=1)).strip()
    text = _without_closing(text)
    for left, right in (('"""', '"""'), ('"', '"'), ("“", "”")):
        inside = text[len(left) : -len(right)]
        if text.startswith(left) and text.endswith(right) and not {*left, *right} & {*inside}:
            text = inside.strip()
    return text


def _runs(words: Sequence[str], length: int) -> Counter[tuple[str, ...]]:
    """Counts the word n-grams of this length."""
    return Counter(zip(*(words[i:] for i in range(length)), strict=False))
