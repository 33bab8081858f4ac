"""Backbones: finding and loading a pretrained causal LM and its tokenizer, and adapting it."""

from prompt_recovery.backbones.adapters import Adapter, add_adapter, count_parameters
from prompt_recovery.backbones.load import Backbone, load_model, load_tokenizer
from prompt_recovery.backbones.locate import locate
from prompt_recovery.backbones.precision import Precision, choose_precision

__all__ = [
    "Adapter",
    "Backbone",
    "Precision",
    "add_adapter",
    "choose_precision",
    "count_parameters",
    "load_model",
    "load_tokenizer",
    "locate",
]
