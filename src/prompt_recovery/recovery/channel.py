"""The noisy channel: a good candidate also explains the rewritten text.

As in machine translation (Brown et al., Computational Linguistics 1993; with neural models: Yu et
al., ICLR 2017), Bayes' rule turns p(prompt | texts) around. A rewriter model says how likely it
would have written the rewritten text if a candidate had been the prompt:

    p(prompt | original, rewritten) ∝ p(prompt)^a · p(rewritten | original, prompt)^b.

The prior p(prompt) is the density of the posterior of all sources at the candidate. Both exponents
are fitted on validation, since neither of the two is a calibrated probability (see `choice`, which
weighs further features of a candidate in the same way). MBR over this posterior answers.
"""

from dataclasses import dataclass, field

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.settings import AtLeastOne, NotNegative, checked
from prompt_recovery.templates import Template


@checked("channel")
@dataclass(frozen=True)
class ChannelSettings:
    """The settings of a channel: which rewriter model scores candidates, and how it is weighed.

    Attributes:
        backbone: The rewriter model. None takes the one that rewrote the texts that the first run
            was trained on, if its dataset names it and it can be found, and otherwise SmolLM2.
        template: The rewrite template. If the original text comes before the prompt, it is read
            only once for all candidates of a pair.
        exponent: The exponent b of the likelihood of the rewritten text, ≥ 0; None fits both
            exponents on validation.
        prior: The exponent a of the prior, ≥ 0; for a given `exponent` only.
        candidates: The number of best candidates that are rescored, ≥ 1.
        max_text_tokens: The largest number of tokens of either text; the rest is cut off.
    """

    backbone: Backbone | None = None
    template: Template = field(kw_only=True)
    exponent: NotNegative | None = None
    prior: NotNegative = 1.0
    candidates: AtLeastOne = 16
    max_text_tokens: AtLeastOne = 160

    def __post_init__(self) -> None:
        if self.exponent is not None and self.exponent == self.prior == 0:
            raise PromptRecoveryError(
                "channel.exponent=0 and channel.prior=0 leave nothing to choose by; raise one"
            )
