"""Evidence: which words of the two texts support a recovered prompt.

There are two methods, for language models and for dense retrievers:

- *Occlusion* (Zeiler and Fergus, ECCV 2014; for words: Li et al., arXiv 1612.08220) leaves out one
  part of the texts at a time and measures by how much log p(prompt | texts), or the cosine of the
  predicted embedding and the prompt's embedding, falls.
- *Integrated gradients* (Sundararajan et al., ICML 2017, arXiv 1703.01365) follows the gradient
  from neutral input embeddings to those of the words. The weights of all words sum to the
  difference of the quantity between the two.

How faithful both are is measured by `faithfulness`.
"""

from prompt_recovery.recovery.evidence.explaining import (
    explain,
    explainable,
    require_explainable,
    with_evidence,
)

__all__ = ["explain", "explainable", "require_explainable", "with_evidence"]
