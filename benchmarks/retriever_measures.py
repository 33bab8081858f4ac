"""Whether what changed between two texts helps a dense retriever to choose a prompt.

    python benchmarks/retriever_measures.py --output measures.json <runs…>

A pair is measured (how much longer the rewritten text is, which share of the words it keeps, by how
much it is more formal, whether it has lists …), and so is the training pair of each prompt of the
bank. The retriever's weight of a prompt is multiplied by exp(-λ d²), where d² is the mean squared
difference of both pairs' measures in standard deviations of the training pairs. λ is the one with
the highest mean SCS on the validation split if it gains at least a standard error over λ = 0, and
otherwise 0. Reported are the gains in the mean SCS of the answers by MBR, with 95 % bootstrap
intervals over examples. Runs that are in the record already are left alone.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from detection import Remembered
from numpy.typing import NDArray

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.detection.features import pair_features
from prompt_recovery.detection.items import measured_pair
from prompt_recovery.metrics.statistics import bootstrap_interval, gains_an_error, standard_error
from prompt_recovery.recovery.decoding import MBR
from prompt_recovery.recovery.interface import pairs_of
from prompt_recovery.recovery.load import load_recoverer, splits_of
from prompt_recovery.recovery.posterior import Posterior
from prompt_recovery.recovery.retriever import Retriever
from prompt_recovery.runs.folder import recoverer_folders
from prompt_recovery.storage import write_json
from prompt_recovery.terminal import quiet

WEIGHTS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0)
SHOWN = (
    "change_of_log_words",
    "words_kept",
    "change_of_reading_level",
    "change_of_sentiment",
    "change_of_formality",
    "change_of_list_items",
    "change_of_headings",
    "change_of_emoji",
    "change_of_first_person",
    "change_of_second_person",
    "change_of_past_tense",
    "change_of_present_tense",
)
"""The measures that `recover` and the web page show. The others are those of `detect`."""
BY_LIBRARIES = (
    "reading_level",
    "sentiment",
    "formality",
    "list_items",
    "headings",
    "emoji",
    "_person",
    "_tense",
)
"""Endings of the names of those that need the extra `measures`."""
_MOST = 3.0  # standard deviations, so that no rare measure outweighs all others


def features(examples: Sequence[RewriteExample], measure: Remembered) -> list[Mapping[str, float]]:
    """The measures of each pair."""
    return [
        pair_features(
            e.original_text,
            e.rewritten_text,
            measured_pair(e.original_text, e.rewritten_text, measure),
        )
        for e in examples
    ]


def scaled(
    rows: Sequence[Mapping[str, float]], train: Sequence[Mapping[str, float]], names: Sequence[str]
) -> NDArray[np.float64]:
    """The measures of n pairs in standard deviations of the training pairs, fp64 [n, d]."""
    known = np.array([[row[name] for name in names] for row in train])
    table = np.array([[row[name] for name in names] for row in rows])
    deviation = np.maximum(known.std(0), 1e-9)
    return np.asarray(np.clip((table - known.mean(0)) / deviation, -_MOST, _MOST))


def reweighted(
    posterior: Posterior,
    own: NDArray[np.float64],
    theirs: Mapping[str, NDArray[np.float64]],
    x: float,
) -> Posterior:
    """A posterior whose weights are multiplied by exp(-x d²); their sum stays the same."""
    distances = np.array([float(((own - theirs[text]) ** 2).mean()) for text in posterior.texts])
    votes = np.asarray(posterior.votes)
    changed = votes * np.exp(-x * (distances - distances.min()))
    changed = np.maximum(changed * votes.sum() / changed.sum(), 1e-30)
    return replace(posterior, votes=tuple(changed.tolist()))


def measured(run: str, measure: Remembered) -> dict[str, Any]:
    """The gains of one run's retriever."""
    recoverer = load_recoverer(run, precision="fp32")
    [retriever] = [s for s, _ in recoverer.sources if isinstance(s, Retriever)]
    scs = recoverer.scs
    assert scs is not None, "a run has a metric"
    parts = splits_of(recoverer_folders(run)[0])
    train = features(parts.train, measure)
    found: dict[str, Any] = {}
    answers: dict[str, Any] = {}
    for part, examples in (("val", parts.val), ("test", parts.test)):
        rows = features(examples, measure)
        answers[part] = (
            examples,
            rows,
            retriever.posteriors_of(retriever.encoder.embed(pairs_of(examples))),
        )
    every = tuple(sorted(train[0]))
    plain = tuple(name for name in every if not name.endswith(BY_LIBRARIES))
    sets = {"shown": SHOWN, "without libraries": plain, "all": every}
    for kind, names in sets.items():
        by_prompt: dict[str, list[NDArray[np.float64]]] = defaultdict(list)
        for example, row in zip(parts.train, scaled(train, train, names), strict=True):
            by_prompt[example.rewrite_prompt.strip()].append(row)
        theirs = {prompt: np.mean(own, 0) for prompt, own in by_prompt.items()}
        middle = np.zeros(len(names))
        theirs = {p: theirs.get(p.strip(), middle) for p in retriever.bank.prompts}
        scores = {}
        for part, (examples, rows, posteriors) in answers.items():
            table = scaled(rows, train, names)
            scores[part] = np.array(
                [
                    scs(
                        [
                            chosen[0].text
                            for chosen in MBR().choose(
                                [
                                    reweighted(p, own, theirs, x)
                                    for p, own in zip(posteriors, table, strict=True)
                                ],
                                scs,
                            )
                        ],
                        [e.rewrite_prompt for e in examples],
                    )
                    for x in WEIGHTS
                ],
                np.float64,
            )
        val, test = scores["val"], scores["test"]
        best = int(val.mean(1).argmax())
        kept = best if gains_an_error(val[best] - val[0]) else 0
        near = [
            i
            for i, own in enumerate(val)
            if (val[best] - own).mean() <= standard_error(val[best] - own)
        ]
        found[kind] = {
            "weight": WEIGHTS[kept],
            "validation_gain": interval(val[best] - val[0]),
            "test_gain": interval(test[kept] - test[0]),
            "test_gains": np.round(test[kept] - test[0], 5).tolist(),
            "smallest_weight_within_an_error": WEIGHTS[near[0]],
            "test_gain_of_smallest": interval(test[near[0]] - test[0]),
            "mean_scs": {
                part: dict(zip(map(str, WEIGHTS), own.mean(1).tolist(), strict=True))
                for part, own in scores.items()
            },
        }
    return found


def interval(gain: NDArray[np.float64]) -> dict[str, float]:
    """The mean and its 95 % interval."""
    low, high = bootstrap_interval(gain)
    return {"mean": float(gain.mean()), "low": low, "high": high, "examples": len(gain)}


def main() -> None:
    """Measures all runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", help="run folders with a dense retriever")
    parser.add_argument("--output", type=Path, required=True, help="the JSON record")
    given = parser.parse_args()
    quiet()
    measure = Remembered()
    record = json.loads(given.output.read_text("utf-8")) if given.output.exists() else {}
    for run in given.runs:
        if Path(run).name not in record.get("runs", {}):
            record.setdefault("runs", {})[Path(run).name] = measured(run, measure)
            write_json(given.output, record, indent=1)
    runs = list(record["runs"].values())
    record["mean_over_runs"] = {
        kind: interval(np.mean([run[kind]["test_gains"] for run in runs], 0)) for kind in runs[0]
    }
    write_json(given.output, record, indent=1)
    print(json.dumps(record["mean_over_runs"], indent=1))


if __name__ == "__main__":
    main()
