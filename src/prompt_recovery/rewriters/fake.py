"""A rewriter without a model, for trying out the pipeline."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from prompt_recovery.rewriters.base import Answer, Chat
from prompt_recovery.settings import AtLeastOne, checked
from prompt_recovery.storage import fingerprint

_WORDS = (
    "about above after again along always among another around because before behind being below "
    "better between both bring calm carry change clear close cold come could count cover early "
    "earth every fall farm field find first follow found friend from garden give good great green "
    "ground grow hand have hear help here high hold home house into just keep kind know land large "
    "late learn leave letter light like line little long look made make many mark might more "
    "morning most mountain move much music near never next night north notice often open order "
    "other over page paper part people place plain plan plant play point quick quiet rain reach "
    "read ready real rest river road room round same sea season second seem self several short "
    "should side simple since small some song soon sound south stand start state stay still stone "
    "story street strong such sun sure table take tell than that their them then there these they "
    "thing think this those though thought three through time together told took toward town tree "
    "turn under until upon very voice walk want warm watch water weather week well were what when "
    "where which while white whole wide will wind winter with without wood word work world would "
    "write year young your"
).split()


@checked("rewriter")
@dataclass(frozen=True, kw_only=True)
class FakeRewriter:
    """Answers immediately, with sentences of common words that depend on the chat and the seed.

    Attributes:
        words: The approximate number of words.
    """

    words: AtLeastOne = 60
    name: str = "fake"

    @property
    def identity(self) -> str:
        """A hash of the number of words."""
        return fingerprint("fake", self.words)

    def card(self) -> dict[str, str]:
        """States that nothing was rewritten."""
        return {"model": "none: common words, drawn at random", "licence": "cc0-1.0"}

    def answers(self, chats: Sequence[Chat], seeds: Sequence[int]) -> Iterator[tuple[int, Answer]]:
        """Answers in order."""
        for index, (chat, seed) in enumerate(zip(chats, seeds, strict=True)):
            said = chat[-1]["content"]
            rng = random.Random(f"{seed}\0{said}")
            sentences: list[str] = []
            written = 0
            while written < self.words:
                words = rng.choices(_WORDS, k=rng.randint(6, 14))
                sentences.append(" ".join(words).capitalize() + ".")
                written += len(words)
            yield (
                index,
                Answer(
                    " ".join(sentences),
                    prompt_tokens=len(said.split()),
                    completion_tokens=written,
                ),
            )

    def close(self) -> None:
        """Does nothing: there is nothing to free."""
