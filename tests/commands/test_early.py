"""What can fail because of settings and files fails before anything heavy is imported."""

import shlex
import subprocess
import sys

import pytest

from tests.command_line import assert_one_line

CODE = """
import atexit, sys
heavy = ("torch", "transformers", "lightning")
atexit.register(lambda: print("heavy:", [n for n in heavy if n in sys.modules], file=sys.stderr))
sys.modules |= dict.fromkeys(("gradio", "captum", "vllm", "bitsandbytes"))  # not installed
from prompt_recovery.commands.main import main
main()
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("app run=shipped", ["the web page needs gradio", "[app]"]),
        ("recover original=a rewritten=b explain=integrated_gradients",
         ["explain=integrated_gradients needs captum", "[explain]", "use explain=occlusion"]),
        ("evaluate explain=integrated_gradients", ["needs captum"]),
        ("generate rewriter/backend=vllm", ["rewriter/backend=vllm", "needs vllm"]),
        ("train adapter=qlora", ["is for CUDA GPUs, needs bitsandbytes", "use adapter=lora"]),
        ("recover run=both original=a rewritten=b decoding=greedy",
         ["run=both: its adapter and retriever choose together, which decoding=greedy cannot",
          "take decoding=mbr or decoding=choice, or one of them alone, such as run=both/adapter"]),
        ("evaluate baselines=[] 'recoverers=[{run: both, decoding: greedy}]'",
         ["recoverers=both: its adapter and retriever choose together, which decoding=greedy",
          "one of them alone, such as recoverers=both/adapter"]),
        ("evaluate baselines=[] recoverers=[none]", ["recoverers=none: no such folder"]),
        ("recover run=both input=other.csv", ["columns 'id', 'original_text' and 'rewritten_"]),
        ("evaluate data=file data.path=few.csv part=test", ["split is empty (1 rows"]),
        ("evaluate baselines=[guess]", ["baseline 'guess' is unknown", "mean_prompt"]),
        ("recover run=none original=a rewritten=b", ["run=none: no such folder"]),
    ],
)  # fmt: skip
def test_a_command_that_cannot_succeed_fails_before_heavy_imports(words, told, tmp_path):
    for part in ("adapter", "retriever"):
        (tmp_path / "both" / part).mkdir(parents=True)
        (tmp_path / "both" / part / "recoverer.yaml").touch()
    (tmp_path / "other.csv").write_text("before,after\na,b\n")
    (tmp_path / "few.csv").write_text(
        "id,original_text,rewritten_text,rewrite_prompt\n1,It rained.,Arr!,Be a pirate.\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", CODE, *shlex.split(words)],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert_one_line(result, *told)
    assert "heavy: []" in result.stderr
