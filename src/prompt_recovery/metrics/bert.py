"""A small BERT that embeds texts, for the common case of a sentence-transformers folder.

It gives the embeddings that sentence-transformers gives, to rounding error, and starts in a
fraction of the time: to import that library takes seconds, most of them for what isn't used here.
What it doesn't know is left to the library, and so is all training.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional as F

from prompt_recovery.metrics.plain import load_plain, require_plain
from prompt_recovery.storage import MALFORMED, read_json

_EMBEDDINGS = ("word_embeddings", "position_embeddings", "token_type_embeddings")
_LAYER = (
    "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
    "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
)  # fmt: skip
_UNUSED = {"embeddings.position_ids", "pooler.dense.weight", "pooler.dense.bias"}
_OWN = "sentence_bert_config.json"
# What is computed here, in `config.json`, in `sentence_bert_config.json` and in
# `tokenizer_config.json`. These are the defaults, too.
_FIXED: dict[str, Any] = {
    "model_type": "bert", "hidden_act": "gelu", "is_decoder": False, "add_cross_attention": False,
    "position_embedding_type": "absolute", "quantization_config": None,
}  # fmt: skip
_READING: dict[str, Any] = {
    "do_lower_case": False, "transformer_task": "feature-extraction",
    "module_output_name": "token_embeddings",
    "modality_config": {
        "text": {"method": "forward", "method_output_name": "last_hidden_state"}
    },
}  # fmt: skip
_CUTTING: dict[str, Any] = {
    "do_lower_case": True, "strip_accents": None, "tokenize_chinese_chars": True,
    "truncation_side": "right", "padding_side": "right", "split_special_tokens": False,
    "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
}  # fmt: skip
_WORD_PIECE = {
    "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}  # fmt: skip
_SPECIAL = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"}
_NORMALIZER = {
    "type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
    "strip_accents": None, "lowercase": True,
}  # fmt: skip


def load_reader(folder: Path) -> Any:
    """What embeds the texts in a sentence-transformers folder: a `SmallBert`, or the library's.

    Both have `encode`, `get_embedding_dimension` and `device`.

    Raises:
        PromptRecoveryError: If the folder holds no such model, a damaged one, or one that would run
            code of its own.
    """
    require_plain(folder)
    try:
        found = _small_bert(folder)
    except (OSError, SafetensorError, *MALFORMED):
        found = None  # the library says it better
    return load_plain(folder).float().eval() if found is None else found.float().eval()


class SmallBert(nn.Module):
    """BERT (Devlin et al., NAACL 2019) with the mean of its last hidden states as the embedding.

    Args:
        weights: The weights by their names in BERT, fp32.
        heads: The number of attention heads.
        epsilon: The epsilon of the layer norms.
        tokenizer: Cuts texts to the longest input, and adds the special tokens.
        normalized: Whether embeddings are scaled to length 1.
    """

    def __init__(
        self,
        weights: dict[str, Tensor],
        heads: int,
        epsilon: float,
        tokenizer: Tokenizer,
        normalized: bool,
    ) -> None:
        super().__init__()
        self._heads, self._epsilon = heads, epsilon
        self._tokenizer, self._normalized = tokenizer, normalized
        self._layers = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder."))
        self._names = {name: name.replace(".", "_") for name in weights}
        for name, weight in weights.items():
            self.register_parameter(self._names[name], nn.Parameter(weight, requires_grad=False))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def share_read(self, texts: tuple[str, str]) -> float:
        """The share of the tokens of a pair of texts that the longest input has room for."""
        whole = Tokenizer.from_str(self._tokenizer.to_str())
        whole.no_truncation()
        limits = self._tokenizer.truncation
        longest = float("inf") if limits is None else int(limits["max_length"])
        return min(longest / max(len(whole.encode(*texts).ids), 1), 1.0)

    def get_embedding_dimension(self) -> int:
        """The number of dimensions of an embedding."""
        return int(self._of("embeddings.word_embeddings.weight").shape[1])

    def encode(
        self,
        texts: Sequence[str] | Sequence[tuple[str, str]],
        batch_size: int = 32,
        convert_to_tensor: bool = False,
        normalize_embeddings: bool = False,
        **_: Any,
    ) -> Any:
        """The embeddings of n ≥ 1 texts or pairs of texts, fp32 [n, d].

        The arguments are those of `SentenceTransformer.encode`.

        Args:
            texts: The texts.
            batch_size: The number of texts that are computed together, similar ones in length.
            convert_to_tensor: Whether to return a tensor on the model's device, or a NumPy array.
            normalize_embeddings: Whether to scale embeddings to length 1, if the model doesn't.
        """
        order = sorted(range(len(texts)), key=lambda i: -_length(texts[i]))
        parts = []
        with torch.inference_mode():
            for start in range(0, len(order), batch_size):
                batch = [texts[i] for i in order[start : start + batch_size]]
                parts.append(self._embedded(batch).float())
        back = torch.tensor(order, device=self.device).argsort()
        vectors = torch.cat(parts)[back]
        if normalize_embeddings and not self._normalized:
            vectors = F.normalize(vectors, dim=-1)
        return vectors if convert_to_tensor else vectors.cpu().numpy()

    def _embedded(self, batch: Sequence[Any]) -> Tensor:
        read = self._tokenizer.encode_batch(list(batch))
        longest = max(len(r.ids) for r in read)
        ids, types, mask = (
            torch.tensor(
                [row + [0] * (longest - len(row)) for row in rows], device=self.device
            )
            for rows in (
                [r.ids for r in read], [r.type_ids for r in read], [r.attention_mask for r in read]
            )
        )  # fmt: skip
        return self._pooled(self.word_embeddings(ids), types, mask)

    @property
    def pad_token_id(self) -> int:
        """The id of the padding token."""
        return int(self._tokenizer.token_to_id("[PAD]") or 0)

    def read(self, texts: tuple[str, str]) -> Any:
        """The tokens of a pair of texts as `tokenizers` gives them, cut to the longest input."""
        return self._tokenizer.encode(*texts)

    def word_embeddings(self, ids: Tensor) -> Tensor:
        """The input embeddings of token ids [n, tokens], without positions, [n, tokens, d]."""
        return self._of("embeddings.word_embeddings.weight")[ids]

    def of_word_embeddings(self, words: Tensor, types: Tensor) -> Tensor:
        """The embeddings of inputs that are given as word embeddings; differentiable.

        Args:
            words: The word embeddings [n, tokens, d], none of which is padding.
            types: The token types, int64 [n, tokens].

        Returns:
            [n, d].
        """
        return self._pooled(words, types, torch.ones_like(types))

    def _pooled(self, words: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        hidden = self._hidden(words, types, mask.bool()).float()
        weights = mask.unsqueeze(-1).float()
        vectors = (hidden * weights).sum(1) / weights.sum(1).clamp(min=1e-9)
        return F.normalize(vectors, dim=-1) if self._normalized else vectors

    def _hidden(self, words: Tensor, types: Tensor, mask: Tensor) -> Tensor:
        """The last hidden states, [n, tokens, d]."""
        _, position, kind = (self._of(f"embeddings.{name}.weight") for name in _EMBEDDINGS)
        hidden = words + kind[types] + position[: words.shape[1]]
        hidden = self._norm(hidden, "embeddings.LayerNorm")
        seen = mask[:, None, None, :]
        for number in range(self._layers):
            layer = f"encoder.layer.{number}."
            query, key, value = (
                self._linear(hidden, f"{layer}attention.self.{name}")
                .unflatten(-1, (self._heads, -1))
                .transpose(1, 2)
                for name in ("query", "key", "value")
            )
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
            found = self._linear(found.transpose(1, 2).flatten(2), f"{layer}attention.output.dense")
            hidden = self._norm(found + hidden, f"{layer}attention.output.LayerNorm")
            found = F.gelu(self._linear(hidden, f"{layer}intermediate.dense"))
            found = self._linear(found, f"{layer}output.dense")
            hidden = self._norm(found + hidden, f"{layer}output.LayerNorm")
        return hidden

    def _of(self, name: str) -> Tensor:
        return self.get_parameter(self._names[name])

    def _linear(self, hidden: Tensor, name: str) -> Tensor:
        return F.linear(hidden, self._of(f"{name}.weight"), self._of(f"{name}.bias"))

    def _norm(self, hidden: Tensor, name: str) -> Tensor:
        size = (hidden.shape[-1],)
        weight, bias = self._of(f"{name}.weight"), self._of(f"{name}.bias")
        return F.layer_norm(hidden, size, weight, bias, self._epsilon)


def _length(text: Any) -> int:
    return len(text) if isinstance(text, str) else sum(map(len, text))


def _small_bert(folder: Path) -> SmallBert | None:
    """The model in a folder, or None if it isn't exactly what `SmallBert` computes."""
    kinds = [str(m["type"]).rpartition(".")[2] for m in read_json(folder / "modules.json")]
    own = dict(read_json(folder / _OWN) or {})
    config = dict(read_json(folder / "config.json"))
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        return None
    if not _is_plain(folder) or not _has(config, _FIXED) or not _has(own, _READING):
        return None
    tokenizer = _tokenizer(folder, own, int(config["max_position_embeddings"]))
    if tokenizer is None or tokenizer.get_vocab_size() > config["vocab_size"]:
        return None
    weights = load_file(folder / "model.safetensors")
    used = {name: weight.float() for name, weight in weights.items() if name not in _UNUSED}
    heads = int(config["num_attention_heads"])
    whole = {name: tuple(weight.shape) for name, weight in used.items()} == _shapes(config)
    if not whole or heads < 1 or config["hidden_size"] % heads:
        return None
    return SmallBert(used, heads, float(config["layer_norm_eps"]), tokenizer, "Normalize" in kinds)


def _is_plain(folder: Path) -> bool:
    """Whether texts are embedded without a prompt before them, by the mean of all tokens."""
    first, second = [folder / str(m["path"]) for m in read_json(folder / "modules.json")][:2]
    prompts = dict(read_json(folder / "config_sentence_transformers.json") or {})
    others = {file.name for file in folder.glob("sentence_*_config.json")} - {_OWN}
    plain = first == folder and not others and prompts.get("default_prompt_name") is None
    return plain and _is_mean(read_json(second / "config.json"))


def _has(given: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether settings have the values that are known, as far as they are there at all."""
    return all(given.get(name, value) == value for name, value in known.items())


def _shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shape of each weight."""
    size, inner = int(config["hidden_size"]), int(config["intermediate_size"])
    rows = ("vocab_size", "max_position_embeddings", "type_vocab_size")
    shapes: dict[str, tuple[int, ...]] = {
        f"embeddings.{name}.weight": (int(config[count]), size)
        for name, count in zip(_EMBEDDINGS, rows, strict=True)
    }
    parts = ["embeddings.LayerNorm"]
    count = int(config["num_hidden_layers"])
    parts += [f"encoder.layer.{n}.{part}" for n in range(count) for part in _LAYER]
    for part in parts:
        out = inner if part.endswith("intermediate.dense") else size
        into = inner if part.endswith(".output.dense") and "attention" not in part else size
        shapes[f"{part}.weight"] = (size,) if part.endswith("LayerNorm") else (out, into)
        shapes[f"{part}.bias"] = (out,)
    return shapes


def _is_mean(pooling: Any) -> bool:
    """Whether the pooling is the mean, in the files of newer and of older versions."""
    if "pooling_mode" in pooling:
        return bool(pooling["pooling_mode"] == "mean")
    modes = {name for name, value in pooling.items() if name.startswith("pooling_mode_") and value}
    return modes == {"pooling_mode_mean_tokens"}


def _tokenizer(folder: Path, own: dict[str, Any], positions: int) -> Tokenizer | None:
    """BERT's uncased tokenizer, if that is what the folder has."""
    saved = read_json(folder / "tokenizer.json")
    config = dict(read_json(folder / "tokenizer_config.json"))
    model = {"type": "WordPiece"} | {k: v for k, v in saved["model"].items() if k != "vocab"}
    if model != _WORD_PIECE or saved["pre_tokenizer"] != {"type": "BertPreTokenizer"}:
        return None
    if saved["normalizer"] != _NORMALIZER or not _has(config, _CUTTING):
        return None
    added = [*saved["added_tokens"], *(config.get("added_tokens_decoder") or {}).values()]
    if {token["content"] for token in added} != _SPECIAL or _has_more_tokens(folder, config):
        return None
    template = saved["post_processor"]
    types = [next(iter(piece.values()))["type_id"] for piece in template.get("pair", ())]
    if types != [0, 0, 0, 1, 1]:
        return None
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    longest = min(int(own.get("max_seq_length") or config["model_max_length"]), positions)
    tokenizer.enable_truncation(longest, strategy="longest_first")
    tokenizer.no_padding()
    return tokenizer


def _has_more_tokens(folder: Path, config: dict[str, Any]) -> bool:
    further = ("additional_special_tokens", "extra_special_tokens")
    return any(config.get(name) for name in further) or (folder / "added_tokens.json").exists()
