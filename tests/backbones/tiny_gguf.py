"""Tiny GGUF files with a tokenizer, whole or in parts, for tests of packages."""

import hashlib
from pathlib import Path

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, quants
from transformers.convert_slow_tokenizer import bytes_to_unicode

HIDDEN, LAYERS, HEADS, WIDE = 32, 2, 4, 64


def tiny_gguf(path: Path, output: bool = True, llama: bool = False) -> Path:
    """Writes a Qwen2 model with random fp32 weights that are exact in bf16.

    Args:
        path: The file.
        output: Whether the output layer has weights of its own.
        llama: Write a Llama instead, with the tokenizer of SmolLM2 and quantised weights.
    """
    tokens = [*bytes_to_unicode().values(), "he", "ll", "<|endoftext|>", "<|im_end|>"]
    writer = GGUFWriter(path, "llama" if llama else "qwen2")
    writer.add_name("Tiny")
    writer.add_block_count(LAYERS)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(WIDE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(2)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm" if llama else "qwen2")
    if llama:
        _add_more(writer, len(tokens))
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 2) + [3, 3])
    writer.add_token_merges(["h e", "l l"])
    writer.add_bos_token_id(len(tokens) - 2)
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_pad_token_id(len(tokens) - 2)
    writer.add_chat_template("{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")
    generator = np.random.default_rng(0)

    def add(name: str, *shape: int) -> None:
        values = generator.integers(-100, 100, shape).astype(np.float32) / 128
        if llama and len(shape) == 2:
            kind = GGMLQuantizationType.Q8_0 if "." not in name[:-7] else GGMLQuantizationType.Q4_1
            writer.add_tensor(name, quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)

    add("token_embd.weight", len(tokens), HIDDEN)
    add("output_norm.weight", HIDDEN)
    if output:
        add("output.weight", len(tokens), HIDDEN)
    for layer in range(LAYERS):
        add(f"blk.{layer}.attn_norm.weight", HIDDEN)
        add(f"blk.{layer}.ffn_norm.weight", HIDDEN)
        for name, rows in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            add(f"blk.{layer}.attn_{name}.weight", rows, HIDDEN)
            if not llama:
                add(f"blk.{layer}.attn_{name}.bias", rows)
        add(f"blk.{layer}.attn_output.weight", HIDDEN, HIDDEN)
        add(f"blk.{layer}.ffn_gate.weight", WIDE, HIDDEN)
        add(f"blk.{layer}.ffn_up.weight", WIDE, HIDDEN)
        add(f"blk.{layer}.ffn_down.weight", HIDDEN, WIDE)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_more(writer: GGUFWriter, tokens: int) -> None:
    """Adds what only the metadata of Llamas has."""
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(tokens)
    writer.add_add_bos_token(False)
    writer.add_unk_token_id(tokens - 2)


def part_packages(root: Path, whole: Path, count: int, name: str) -> tuple[int, str]:
    """Writes `count` importable packages `<name>1` … that hold the parts of a file.

    Returns:
        The size and the SHA-256 digest of the file.
    """
    content = whole.read_bytes()
    step = -(-len(content) // count)
    for part in range(1, count + 1):
        folder = root / f"{name}{part}" / "data"
        folder.mkdir(parents=True)
        (folder.parent / "__init__.py").write_text("raise SystemExit('was imported')\n")
        block = content[(part - 1) * step : part * step]
        (folder / f"part{part:02d}.bin").write_bytes(block)
    return len(content), hashlib.sha256(content).hexdigest()
