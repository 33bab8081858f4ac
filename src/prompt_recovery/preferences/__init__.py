"""Preferences over recovered prompts: candidates, their scores, and pairs or groups of them."""

from prompt_recovery.preferences.build import (
    Mix,
    Preferences,
    prepare_preferences,
    proposing_retriever,
    require_preferences,
)
from prompt_recovery.preferences.chat_api import ChatApi
from prompt_recovery.preferences.files import (
    PreferenceExample,
    read_preferences,
    write_preferences,
)
from prompt_recovery.preferences.pairing import Pairing

__all__ = [
    "ChatApi",
    "Mix",
    "Pairing",
    "PreferenceExample",
    "Preferences",
    "prepare_preferences",
    "proposing_retriever",
    "read_preferences",
    "require_preferences",
    "write_preferences",
]
