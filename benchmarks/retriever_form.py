"""How much the form of pairs should count in a dense retriever, on its own and on other sources.

    python benchmarks/retriever_form.py --output form.json [--data other.jsonl …] [--test] <runs…>

For each run, its retriever answers alone, without its language model, the validation split, the
first 200 rows of each file, and with `--test` the test split. The weight of a prompt is multiplied
by exp(-λ f d²) (`recovery.form.BankForm`), where f is the familiarity of the pair, and with
`without_familiarity` by exp(-λ d²). Reported are the mean SCS of the answers by MBR for each λ, and
the gain of λ = 6 over λ = 0 with a 95 % bootstrap interval over examples, whose scores are averaged
over the runs first. The temperature is that of training. Runs that are in the record are kept.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery import load_dataset
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.metrics.statistics import bootstrap_interval
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.form import BankForm
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import load_recoverer, splits_of
from prompt_recovery.recovery.retriever import FORM_WEIGHT, Retriever
from prompt_recovery.runs.folder import recoverer_folders
from prompt_recovery.storage import write_json
from prompt_recovery.terminal import quiet

WEIGHTS = (0.0, 2.0, 4.0, FORM_WEIGHT, 8.0, 12.0)
ROWS = 200
TEMPERATURE = 0.05


def scores(
    retriever: Retriever, form: BankForm, examples: Sequence[RewriteExample], scs: SCS
) -> dict[str, Any]:
    """The SCS of each answer for each λ, with and without the familiarity."""
    pairs = pairs_of(examples)
    truths = [example.rewrite_prompt for example in examples]
    posteriors = retriever.posteriors_of(retriever.encoder.embed(pairs))
    near = retriever.familiarity(pairs)

    def of(weight: float, familiarity: Sequence[float]) -> list[float]:
        own = form.with_weight(weight).all_reweighted(posteriors, pairs, familiarity)
        return np.round(scs([row[0].text for row in MBR().choose(own, scs)], truths), 6).tolist()

    return {
        "mean_familiarity": float(np.mean(near)),
        "by_weight": {str(weight): of(weight, near) for weight in WEIGHTS},
        "without_familiarity": {str(weight): of(weight, [1.0] * len(pairs)) for weight in WEIGHTS},
    }


def measured(run: str, files: Sequence[Path], test: bool) -> dict[str, Any]:
    """The scores of one run's retriever on each set of examples."""
    recoverer = load_recoverer(run, precision="fp32")
    assert recoverer.scs is not None, "a run has a metric"
    [retriever] = [s for s, _ in recoverer.sources if isinstance(s, Retriever)]
    retriever = replace(retriever, form=None, temperature=TEMPERATURE)
    parts = splits_of(recoverer_folders(run)[0])
    form = BankForm.of(parts.train)
    sets = {"validation": parts.val} | ({"test": parts.test} if test else {})
    sets |= {file.stem: load_dataset(str(file)).examples[:ROWS] for file in files}
    return {
        name: scores(retriever, form, examples, recoverer.scs) for name, examples in sets.items()
    }


def summary(runs: Sequence[dict[str, Any]], name: str) -> dict[str, Any]:
    """The means over the runs on one set of examples."""
    rows: dict[str, dict[str, NDArray[np.float64]]] = {
        kind: {w: np.mean([run[name][kind][w] for run in runs], 0) for w in runs[0][name][kind]}
        for kind in ("by_weight", "without_familiarity")
    }
    chosen = rows["by_weight"]
    gain = chosen[str(FORM_WEIGHT)] - chosen["0.0"]
    low, high = bootstrap_interval(gain)
    return {
        "examples": len(gain),
        "runs": len(runs),
        "mean_familiarity": float(np.mean([run[name]["mean_familiarity"] for run in runs])),
        "mean_scs": {w: float(own.mean()) for w, own in chosen.items()},
        "mean_scs_without_familiarity": {
            w: float(own.mean()) for w, own in rows["without_familiarity"].items()
        },
        "gain": {"mean": float(gain.mean()), "low": low, "high": high},
        "gain_of_each_run": [
            float(
                np.mean(run[name]["by_weight"][str(FORM_WEIGHT)])
                - np.mean(run[name]["by_weight"]["0.0"])
            )
            for run in runs
        ],
    }


def main() -> None:
    """Measures all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders with a dense retriever")
    parser.add_argument("--data", nargs="*", type=Path, default=[], help="files of other sources")
    parser.add_argument("--test", action="store_true", help="also answers the test split")
    parser.add_argument("--output", type=Path, required=True, help="the JSON record")
    given = parser.parse_args()
    quiet()
    record = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    runs = record.setdefault("runs", {})
    for run in given.runs:
        if Path(run).name not in runs:
            runs[Path(run).name] = measured(run, given.data, given.test)
            write_json(given.output, record, indent=1)
    every = list(runs.values())
    record["means"] = {name: summary(every, name) for name in every[0]}
    write_json(given.output, record, indent=1)
    print(json.dumps(record["means"], indent=1))


if __name__ == "__main__":
    main()
