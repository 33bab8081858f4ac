"""Samples of trees are what a plain loop of `generate` would have drawn."""

import numpy as np
import torch

from prompt_recovery.backbones.load import end_token_ids
from prompt_recovery.recovery.decoding import uniforms
from prompt_recovery.recovery.interface import Pair
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.templates import Template
from prompt_recovery.trees import Tree, pack, score_completions
from tests.trees.test_forward import tiny_model

SAMPLES, TOKENS, TEMPERATURE = 1200, 6, 0.6


def test_sample_statistics_are_those_of_a_generate_loop(tokenizer):
    model = tiny_model("llama")
    template = Template("t", "{{ original_text }} => {{ rewritten_text }}")
    writer = Writer(model, tokenizer, template, 60)
    prompt = writer.prompt_tokens(Pair("1", "one text", "another text"))
    temperatures = [TEMPERATURE] * SAMPLES
    drawn = uniforms([("statistics",)], SAMPLES, TOKENS)
    [row] = writer.sample_tokens([prompt], temperatures, drawn, TOKENS)
    ends = end_token_ids(model, tokenizer)
    ours = [[*s.tokens, ends[0]] if s.finished else s.tokens for s in row]

    torch.manual_seed(0)
    output = model.generate(
        input_ids=torch.tensor([prompt]),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.int64),
        max_new_tokens=TOKENS,
        do_sample=True,
        temperature=TEMPERATURE,
        top_k=0,
        top_p=1.0,
        num_return_sequences=SAMPLES,
        eos_token_id=ends,
        pad_token_id=int(tokenizer.pad_token_id),
    )[:, len(prompt) :].tolist()
    theirs = [t[: next((i + 1 for i, x in enumerate(t) if x in ends), len(t))] for t in output]

    with torch.no_grad():
        values = [
            score_completions(model, pack([Tree(prompt, texts)], 2)).log_probability.numpy()
            for texts in (ours, theirs)
        ]
    for measure in (values, [[len(t) for t in texts] for texts in (ours, theirs)]):
        left, right = (np.asarray(m, float) for m in measure)
        error = np.sqrt((left.var() + right.var()) / SAMPLES)
        assert abs(left.mean() - right.mean()) <= 3 * error + 1e-9
    for place in range(3):  # how often each token comes first, second, third
        counts = np.array(
            [np.bincount([t[place] for t in texts if len(t) > place], minlength=512)
             for texts in (ours, theirs)]
        ) / SAMPLES  # fmt: skip
        mean = counts.mean(0)
        assert (np.abs(counts[0] - counts[1]) <= 5 * np.sqrt(2 * mean / SAMPLES)).all()
