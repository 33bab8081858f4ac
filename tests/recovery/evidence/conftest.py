import pytest

from prompt_recovery.backbones.sentence_model import load_fitted
from prompt_recovery.backbones.tiny import tiny_encoder
from prompt_recovery.recovery.bank import PromptBank
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.recoverer import PosteriorRecoverer
from prompt_recovery.recovery.retriever import PairEncoder, Retriever
from prompt_recovery.recovery.sources import WriterSource
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template
from tests.trees.test_forward import tiny_model

PAIR = Pair(
    "1",
    "The ferry leaves at dawn, as it does on all days. It is back by noon. Dogs travel free.",
    "Arr! At dawn the ferry leaves, me hearties. It is back by noon.\nYer hounds sail free!",
)
TEXTS = {"original": PAIR.original_text, "rewritten": PAIR.rewritten_text}
PROMPT = "Make it sound like a pirate"


@pytest.fixture(scope="session")
def writer(tokenizer):
    template = Template("t", "Before:\n{{ original_text }}\n\nAfter:\n{{ rewritten_text }}")
    return Writer(tiny_model("llama"), tokenizer, template, 400, name="tiny writer")


@pytest.fixture(scope="session")
def retriever(scs):
    bank = PromptBank.of(["Make it rhyme", PROMPT], scs.encoder)
    model = load_fitted(tiny_encoder("bert"), bank.prompts, bank.vectors, 64)
    return Retriever(PairEncoder(model.eval()), bank, 0.05, name="tiny retriever")


@pytest.fixture(scope="session")
def both(writer, retriever, scs):
    """A recoverer of a tiny language model and a tiny retriever."""
    sources = [(WriterSource(writer), 1.0), (retriever, 1.0)]
    return PosteriorRecoverer(sources, MBR(2, 1.0, 3), "the mean prompt", scs)
