"""Writes the tables of memory into `docs/howto/backbone.md`.

    python docs/memory.py

The first table is what runs and benchmarks have measured, from their records. The second one is
computed from the number of parameters, and is a lower bound.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prompt_recovery.storage import atomic_write

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "howto" / "backbone.md"
BEGIN, END = "<!-- memory: docs/memory.py -->", "<!-- end of the memory -->"
GIB = 2**30

PER_TRAINED = 16
"""Bytes of a trained parameter: fp32 has the value, its gradient and the two moments of AdamW (4
each); bf16 has value and gradient (2 each), an fp32 copy of the value and the moments (4 each)."""
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in NF4: four bits, an 8-bit scale for each 64, and an fp32 one for each 256 of
these (QLoRA, arXiv 2305.14314)."""

# The record, the path of the number in it, and what a reader is told.
_RESULTS = "benchmarks/results/dpo_throughput"
MEASURED = [
    ("experiments/starter_sft.metrics.json", "", "SmolLM2 alone, SFT"),
    ("experiments/starter_full.metrics.json", "", "MiniLM alone, on `data=starter_full`"),
    ("experiments/together.metrics.json", "", "MiniLM, then SmolLM2, as in `make demo`"),
    ("experiments/strong.report.json", "training", "Qwen2.5-Coder-1.5B, SFT in fp32"),
    ("experiments/sft_then_dpo.metrics.json", "", "SmolLM2, SFT and then DPO"),
    ("experiments/sft_then_listwise.metrics.json", "", "SmolLM2, SFT and then listwise"),
    (f"{_RESULTS}_smollm2_batch4.json", "ours", "SmolLM2, DPO steps of 4 pairs, bf16"),
    (f"{_RESULTS}_smollm2_batch4.json", "ours_fp32", "SmolLM2, DPO steps of 4 pairs, fp32"),
    (f"{_RESULTS}_smollm2_batch8.json", "ours_fp32", "SmolLM2, DPO steps of 8 pairs, fp32"),
    (f"{_RESULTS}_gemma3_270m_batch4.json", "ours", "Gemma 3 270M, DPO steps of 4 pairs, bf16"),
    (
        f"{_RESULTS}_gemma3_270m_batch4.json",
        "ours_fp32",
        "Gemma 3 270M, DPO steps of 4 pairs, fp32",
    ),
]


@dataclass(frozen=True)
class Size:
    """The numbers of parameters of a model, counted in the architecture of its configuration.

    Attributes:
        name: What `model=` takes.
        parameters: All of them; tied embeddings count once.
        linear: Those in linear layers apart from the output head, which NF4 and LoRA apply to.
        lora: Those of `adapter=lora`, of rank 16.
    """

    name: str
    parameters: int
    linear: int
    lora: int

    def training(self, bytes_each: float, adapted: float = 1.0) -> float:
        """The bytes of the weights, and of what is trained.

        Args:
            bytes_each: Bytes of a frozen weight.
            adapted: The share of the layers with an adapter.
        """
        rest = (self.parameters - self.linear) * max(bytes_each, 2)  # never in NF4
        return self.linear * bytes_each + rest + PER_TRAINED * self.lora * adapted


SIZES = [
    Size("smollm2", 134_515_008, 106_168_320, 4_884_480),
    Size("gemma3_270m", 268_098_176, 100_270_080, 3_796_992),
    Size("qwen2_5_1_5b", 1_777_088_000, 1_310_195_712, 18_464_768),
    Size("phi", 2_779_683_840, 2_516_582_400, 23_592_960),
    Size("mistral", 7_241_732_096, 6_979_321_856, 41_943_040),
    Size("gemma", 8_537_680_896, 7_751_073_792, 50_003_968),
]


def peaks(record: str, path: str = "") -> list[float]:
    """The peaks of memory of all runs in a record, or in a part of it, in GiB."""
    values: Any = json.loads((ROOT / record).read_text(encoding="utf-8"))
    waiting, found = [values[path] if path else values], []
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict) and "peak_memory_bytes" in value:
            found.append(value["peak_memory_bytes"] / GIB)
        elif isinstance(value, dict | list):
            waiting += value.values() if isinstance(value, dict) else value
    return found


def tables() -> str:
    """Both tables with the texts between them."""
    measured = []
    for record, path, said in MEASURED:
        found = sorted({f"{peak:.1f}" for peak in peaks(record, path)}, key=float)
        spread = found[0] if len(found) == 1 else f"{found[0]} … {found[-1]}"
        measured.append([said, spread, f"`{Path(record).name}`"])
    computed = [
        [
            f"`{size.name}`",
            f"{size.parameters / 1e6:,.0f}",
            *(f"{size.training(b) / GIB:.1f}" for b in (4, 2, NF4)),
        ]
        for size in SIZES
    ]
    return (
        "This is the peak memory of the whole process, including PyTorch, as measured on CPUs:\n\n"
        + _table(["what ran", "GiB", "record"], ["---", "---:", "---"], measured)
        + "\nThese lower bounds are **computed, not measured**, for `adapter=lora` of rank 16:\n\n"
        + _table(
            [
                "`model=`",
                "million parameters",
                "GiB in fp32",
                "GiB in bf16",
                "GiB with `adapter=qlora`",
            ],
            ["---", "---:", "---:", "---:", "---:"],
            computed,
        )
    )


def _table(headings: list[str], rule: list[str], rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in [headings, rule, *rows])


def inserted(page: str) -> str:
    """The page with the tables between its marks."""
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{tables()}\n{END}{after}"


if __name__ == "__main__":
    written = inserted(PAGE.read_text(encoding="utf-8"))
    with atomic_write(PAGE) as temporary:
        temporary.write_text(written, encoding="utf-8")
