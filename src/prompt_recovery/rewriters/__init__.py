"""Models that rewrite texts, behind one interface."""

from prompt_recovery.rewriters.base import Answer, Chat, Rewriter, in_order
from prompt_recovery.rewriters.model import Model, Sampling, make

__all__ = ["Answer", "Chat", "Model", "Rewriter", "Sampling", "in_order", "make"]
