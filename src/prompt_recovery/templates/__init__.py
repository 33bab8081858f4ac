"""Templates: how two texts become a recoverer's input, and a prompt and a text a rewriter's."""

from prompt_recovery.templates.render import (
    Template,
    chat_messages,
    chat_prompt,
    for_tokenizer,
    render,
    word_changes,
    word_difference,
)

__all__ = [
    "Template",
    "chat_messages",
    "chat_prompt",
    "for_tokenizer",
    "render",
    "word_changes",
    "word_difference",
]
