"""Tiny random models of all architectures that the project names, with a real tokenizer."""

import os
import re
import shutil
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.storage import cache_dir, made_once

_CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}</s>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
_SHAPE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_WINDOW = {"sliding_window": 16}
_GEMMA = {"head_dim": 8}
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "mistral": ("MistralConfig", _WINDOW),
    "gemma": ("GemmaConfig", _GEMMA),
    "gemma2": ("Gemma2Config", {**_GEMMA, **_WINDOW, "query_pre_attn_scalar": 8}),
    "gemma3": (
        "Gemma3TextConfig",
        {
            **_GEMMA,
            **_WINDOW,
            "query_pre_attn_scalar": 8,
            "layer_types": ["sliding_attention", "full_attention"],
        },
    ),
    "phi": ("PhiConfig", {}),
    "phi3": ("Phi3Config", {**_WINDOW, "tie_word_embeddings": False}),
}


def tiny_backbone(architecture: str, seed: int = 0) -> Path:
    """A cached folder in Hub format with random weights (about 100,000 parameters).

    Args:
        architecture: One of `ARCHITECTURES`. The model has the sliding windows (of 16 tokens), the
            grouped heads and the soft caps of the architecture.
        seed: The seed of the weights.

    Raises:
        PromptRecoveryError: If the architecture is unknown.
    """
    if architecture not in ARCHITECTURES:
        raise PromptRecoveryError(
            f"model.architecture={architecture}: must be one of {', '.join(ARCHITECTURES)}"
        )
    folder = cache_dir("tiny") / f"{architecture}-{seed}-v1"
    return made_once(folder, "config.json", partial(_make, architecture, seed))


def tiny_encoder(architecture: str, seed: int = 0) -> Path:
    """A cached sentence-transformers folder with random weights (about 50,000 parameters).

    It has no dropout and embeds in 24 dimensions.

    Args:
        architecture: "bert".
        seed: The seed of the weights.

    Raises:
        PromptRecoveryError: If the architecture is unknown.
    """
    if architecture != "bert":
        raise PromptRecoveryError(f"model.architecture={architecture}: must be bert")
    folder = cache_dir("tiny") / f"encoder-{architecture}-{seed}-v2"
    return made_once(folder, "modules.json", partial(_make_encoder, seed))


def _make_encoder(seed: int, folder: Path) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules
    from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
    from tokenizers.models import WordPiece
    from transformers import BertConfig, BertModel, BertTokenizerFast
    from transformers.utils.logging import disable_progress_bar

    from prompt_recovery.data.sources import starter

    disable_progress_bar()
    # Not trained: `WordPieceTrainer` finds another vocabulary each time.
    words = Counter(w for e in starter().examples for w in re.findall(r"[a-z]+", e.original_text))
    letters = [chr(code) for code in range(33, 127)]
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    vocabulary += ["##" + letter for letter in letters]
    common = sorted(words, key=lambda w: (-words[w], w))
    vocabulary += [w for w in common if len(w) > 1][: 1000 - len(vocabulary)]
    pieces = Tokenizer(WordPiece({w: i for i, w in enumerate(vocabulary)}, unk_token="[UNK]"))
    pieces.normalizer = normalizers.BertNormalizer()
    pieces.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    config = BertConfig(
        vocab_size=1000,
        hidden_size=24,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        initializer_range=0.3,  # the default makes all embeddings almost equal
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BertModel(config)
    inner = folder / "transformer"
    model.save_pretrained(inner, safe_serialization=True)
    BertTokenizerFast(tokenizer_object=pieces).save_pretrained(inner)
    transformer = modules.Transformer(str(inner), max_seq_length=192)
    pooling = modules.Pooling(24, "mean")
    SentenceTransformer(modules=[transformer, pooling], device="cpu").save(str(folder))
    shutil.rmtree(inner)


def _make(architecture: str, seed: int, folder: Path) -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers.utils.logging import disable_progress_bar

    from prompt_recovery.data.sources import starter

    disable_progress_bar()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_SHAPE["vocab_size"],
        special_tokens=["<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((e.original_text for e in starter().examples), trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    config_class, options = ARCHITECTURES[architecture]
    config = getattr(transformers, config_class)(**{**_SHAPE, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # the default initialisation makes all next tokens almost equally likely
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(4)
    model.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
