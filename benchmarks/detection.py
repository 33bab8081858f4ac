"""How well `prompt-recovery detect` tells rewrites from other texts, within and across sources.

    python benchmarks/detection.py --output detection.json lpr=lpr_dev.jsonl --train lpr

Trains on the starter and on the sources that `--train` names, and judges on each: AUROC, TPR at 1 %
FPR and expected calibration error with 95 % bootstrap intervals over originals, for single texts
and for pairs. `starter` is always there: trained on its training rows, calibrated on validation,
judged on test. An item is always judged by a scorecard that hasn't seen its original. Another
source is name=path or name=path:rows.
"""

import argparse
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompt_recovery.changes.text import TextMeasures, measure_text
from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.sources import file, starter
from prompt_recovery.data.splits import split
from prompt_recovery.detection.classifier import Scorecard
from prompt_recovery.detection.items import FOLDS, Item, labels_of, pair_items, text_items
from prompt_recovery.detection.quality import (
    auroc,
    calibration_error,
    measured,
    tpr_at_one_percent,
)
from prompt_recovery.detection.training import PER_ORIGINAL, at_most, cross_fit
from prompt_recovery.detection.verdict import CERTAINTY, MIN_WORDS
from prompt_recovery.storage import KeyValueStore, fingerprint

MEASURES = {
    "auroc": auroc,
    "tpr_at_1_percent_fpr": tpr_at_one_percent,
    "calibration_error": calibration_error,
}
MAKE = {"text": text_items, "pair": pair_items}


class Remembered:
    """Measures each text once and keeps the result in the cache folder."""

    def __init__(self) -> None:
        self._store = KeyValueStore("text_measures", fingerprint("benchmark", 1))
        self._known: dict[bytes, TextMeasures] = {}

    def __call__(self, text: str) -> TextMeasures:
        """The measures of a text."""
        key = hashlib.sha256(text.encode("utf-8", "replace")).digest()
        if key not in self._known:
            blob = self._store.read([key]).get(key)
            found = TextMeasures(**json.loads(blob)) if blob else measure_text(text)
            if blob is None:
                self._store.write({key: json.dumps(asdict(found)).encode()})
            self._known[key] = found
        return self._known[key]


def rows_of(source: str) -> tuple[str, list[RewriteExample]]:
    """A source's name and its rows, chosen by their ids where only some are wanted."""
    name, _, rest = source.partition("=")
    path, _, rows = rest.rpartition(":")
    examples = file(path or rest).examples
    order = sorted(examples, key=lambda e: hashlib.sha256(e.id.encode()).hexdigest())
    return name, order[: int(rows)] if path else order


def judged(
    items: Sequence[Item], probabilities: Sequence[float], cards: Sequence[Scorecard]
) -> dict[str, Any]:
    """The quality on items that are long enough and familiar, and how many aren't."""
    labels, p = labels_of(items), np.array(probabilities)
    short = np.array([item.words < MIN_WORDS for item in items])
    familiar = [c.is_familiar(item.features) for c, item in zip(cards, items, strict=True)]
    strange = ~np.array(familiar) & ~short
    kept = ~short & ~strange
    unsure = kept & (np.maximum(p, 1 - p) < CERTAINTY)
    sure = kept & ~unsure
    right = (p > 0.5) == labels
    found: dict[str, Any] = {
        "items": len(items),
        "too_short": float(short.mean()),
        "unfamiliar": float(strange.mean()),
        "unsure": float(unsure.mean()),
        "cannot_tell": float(1 - sure.mean()),
        "right_where_told": float(right[sure].mean()) if sure.any() else None,
        "rewrites_where_told": float(labels[sure].mean()) if sure.any() else None,
        "mean_probability_of_rewrites": float(p[labels == 1].mean()),
        "mean_probability_of_others": float(p[labels == 0].mean()),
    }
    for name, chosen in (("all", np.ones(len(p), bool)), ("familiar", kept)):
        own, groups = labels[chosen], [i.group for i, k in zip(items, chosen, strict=True) if k]
        if 0 < own.sum() < len(own):
            found[name] = {
                what: asdict(measured(measure, own, p[chosen], groups))
                for what, measure in MEASURES.items()
            }
    kinds = sorted({item.kind for item in items} - {"rewrite", "original"})
    for kind in kinds:
        chosen = np.array([item.kind in (kind, "rewrite") for item in items])
        found[f"auroc_against_{kind}"] = auroc(labels[chosen], p[chosen])
    return found


def classifiers() -> dict[str, Callable[[], Any]]:
    """Classifiers that a scorecard is compared with, by their names."""
    from sklearn.ensemble import GradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    boosting = {"n_estimators": 150, "subsample": 0.5, "max_features": "sqrt", "random_state": 0}
    return {
        "logistic regression": lambda: make_pipeline(
            StandardScaler(), LogisticRegression(C=0.05, max_iter=500)
        ),
        "gradient boosting": lambda: GradientBoostingClassifier(**boosting),
        "boosted stumps": lambda: GradientBoostingClassifier(**boosting, max_depth=1),
    }


def table_of(items: Sequence[Item]) -> NDArray[np.float64]:
    """The features of n items, fp64 [n, d]."""
    names = sorted(items[0].features)
    return np.array([[item.features[name] for name in names] for item in items])


class Folds:
    """A classifier that is trained and calibrated as `cross_fit` does with scorecards."""

    def __init__(self, make: Callable[[], Any], train: Sequence[Item], val: Sequence[Item]) -> None:
        from sklearn.linear_model import LogisticRegression

        table, labels = table_of(train), labels_of(train)
        folds = np.array([item.fold for item in train])
        self.whole = make().fit(table, labels)
        self.folds = [make().fit(table[folds != k], labels[folds != k]) for k in range(FOLDS)]
        self.platt = None
        uncalibrated = self.probabilities(val, same=True)
        self.platt = LogisticRegression(C=1e4).fit(_log_odds(uncalibrated), labels_of(val))

    def probabilities(self, items: Sequence[Item], same: bool) -> NDArray[np.float64]:
        """The probability of n items, fp64 [n].

        Args:
            items: The items.
            same: Whether their originals may be among those of the training items; then the
                classifier that hasn't seen an item's original judges it.
        """
        table = table_of(items)
        p = self.whole.predict_proba(table)[:, 1]
        if same:
            folds = np.array([item.fold for item in items])
            for k in set(folds.tolist()):
                p[folds == k] = self.folds[k].predict_proba(table[folds == k])[:, 1]
        return p if self.platt is None else self.platt.predict_proba(_log_odds(p))[:, 1]


def _log_odds(p: NDArray[np.float64]) -> NDArray[np.float64]:
    p = np.clip(p, 1e-9, 1 - 1e-9)
    return np.asarray(np.log(p / (1 - p))[:, None])


def carried_over(
    parts: Mapping[str, tuple[Sequence[Item], Sequence[Item]]],
    judged_on: Mapping[str, Sequence[Item]],
) -> dict[str, Any]:
    """AUROC and calibration error of each classifier across sources, and its AUROC less that of the
    scorecard, with 95 % bootstrap intervals over originals.

    Args:
        parts: Training and validation items of each source to train on.
        judged_on: The items to judge, by source.
    """
    found: dict[str, Any] = {}
    for source, (train, val) in parts.items():
        card = cross_fit(train, val)
        fits = {name: Folds(make, train, val) for name, make in classifiers().items()}
        for other, items in judged_on.items():
            same = source == other
            labels, groups = labels_of(items), [item.group for item in items]
            own = (
                card.probabilities(items)
                if same
                else np.array([card.whole.probability(item.features) for item in items])
            )
            row: dict[str, Any] = {
                "scorecard": {
                    "auroc": auroc(labels, own),
                    "calibration_error": calibration_error(labels, own),
                }
            }
            for name, fit in fits.items():
                p = fit.probabilities(items, same)
                gain = measured(_gain, labels, np.stack([own, p], 1), groups)
                row[name] = {
                    "auroc": auroc(labels, p),
                    "calibration_error": calibration_error(labels, p),
                    "auroc_gain": asdict(gain),
                }
            found.setdefault(source, {})[other] = row
            print(source, "->", other, row, flush=True)
    return found


def _gain(labels: NDArray[np.int64], both: NDArray[np.float64]) -> float:
    return auroc(labels, both[:, 1]) - auroc(labels, both[:, 0])


def choices(train: Sequence[Item]) -> dict[str, Any]:
    """Cross-validated AUROC and log loss of several classifiers on training items."""
    from sklearn.metrics import log_loss

    table, labels = table_of(train), labels_of(train)
    folds = np.array([item.fold for item in train])
    found = {}
    for name, make in classifiers().items():
        p = np.zeros(len(train))
        for k in range(FOLDS):
            model = make().fit(table[folds != k], labels[folds != k])
            p[folds == k] = model.predict_proba(table[folds == k])[:, 1]
        found[name] = {"auroc": auroc(labels, p), "log_loss": float(log_loss(labels, p))}
    p = cross_fit(train, train).probabilities(train)
    found["scorecard"] = {"auroc": auroc(labels, p), "log_loss": float(log_loss(labels, p))}
    return found


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sources", nargs="*", help="name=path, or name=path:rows")
    parser.add_argument("--train", nargs="*", default=(), help="sources to train on, too")
    parser.add_argument("--output", type=Path, required=True, help="the JSON record")
    given = parser.parse_args()
    measure = Remembered()
    rows = dict(map(rows_of, given.sources))
    parts = split(starter(full=True))
    record: dict[str, Any] = {"rows": {name: len(examples) for name, examples in rows.items()}}
    for kind, make in MAKE.items():
        train, val, test = (
            make(part, measure)
            for part in (at_most(parts.train, PER_ORIGINAL), parts.val, parts.test)
        )
        items = {"starter": test} | {name: make(own, measure) for name, own in rows.items()}
        fits = {"starter": cross_fit(train, val)}
        fits |= {name: cross_fit(items[name], items[name]) for name in given.train}
        results: dict[str, Any] = {}
        for name, fit in fits.items():
            for other, own in items.items():
                same = name == other
                cards = [fit.folds[item.fold] if same else fit.whole for item in own]
                p = [card.probability(i.features) for card, i in zip(cards, own, strict=True)]
                results.setdefault(name, {})[other] = judged(own, p, cards)
                print(kind, name, "->", other, results[name][other].get("all"), flush=True)
        fitted_on = {"starter": (train, val)} | {n: (items[n], items[n]) for n in given.train}
        record[kind] = {
            "choices": choices(train),
            "carried_over": carried_over(fitted_on, items),
            "train": len(train),
            "sources": results,
        }
        given.output.write_text(json.dumps(record, indent=1, sort_keys=True) + "\n", "utf-8")


if __name__ == "__main__":
    main()
