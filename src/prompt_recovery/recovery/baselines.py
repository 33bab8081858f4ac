from collections.abc import Sequence

import numpy as np

from prompt_recovery.metrics.scs import SCS


def mean_prompt(scs: SCS, prompts: Sequence[str], block: int = 1024) -> str:
    """The training prompt with the highest mean SCS to all training prompts.

    Args:
        scs: the metric.
        prompts: at least one; repeated ones count as often as they come.
        block: candidates compared at a time; bounds memory at block × len(prompts) floats.
    """
    candidates = sorted(set(prompts))
    means = np.concatenate(
        [
            scs.matrix(candidates[i : i + block], prompts).mean(axis=1)
            for i in range(0, len(candidates), block)
        ]
    )
    return candidates[int(means.argmax())]
