"""Statistical comparison of runs: the settings that differ, and their effects."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from prompt_recovery.metrics.statistics import group_numbers, holm, sign_flip_p
from prompt_recovery.reporting.comparison.runs import Apart, Run, mean_metric
from prompt_recovery.runs.trials import uses_preferences

_NOT_SETTINGS = {"name", "group", "tags", "logger", "seed", "ckpt_path", "checkpoint_minutes",
                 "compared_by", "data", "metric"}  # fmt: skip
_NOT_LEAVES = {"_target_", "install", "package", "enable_progress_bar", "log_every_n_steps"}
_PRINCIPAL = ("model", "objective", "template", "adapter", "decoding", "preferences", "retriever")
_LABEL = {"model": "backbone"}
MISSING = "–"


@dataclass(frozen=True)
class Arm:
    """Runs that differ only in their seed.

    Attributes:
        label: The settings in which it differs from other arms.
        settings: Levels by factor.
        runs: The runs, in order of their seeds.
        scores: SCS of the test examples in the order of their ids, fp64 [runs, n].
        prompts: The number of each example's prompt, int64 [n]. Examples that share one are
            resampled together.
        interval: 95 % interval of the mean SCS, over seeds and examples.
        over_seeds: Half width of the 95 % t-interval over seeds. NaN for a single seed.
    """

    label: str
    settings: Mapping[str, str]
    runs: Sequence[Run]
    scores: NDArray[np.float64]
    prompts: NDArray[np.int64]
    interval: tuple[float, float]
    over_seeds: float

    @property
    def mean(self) -> float:
        """Mean test SCS."""
        return float(self.scores.mean())

    def cost(self, name: str) -> float:
        """Returns a metric's mean over seeds."""
        return mean_metric(self.runs, name)


@dataclass(frozen=True)
class Difference:
    """Difference to the best, on the same examples.

    Attributes:
        mean: Difference in SCS, > 0 if the best is better.
        interval: 95 % interval over seeds and examples.
        p: p-value of a sign-flip test, adjusted for the number of comparisons (Holm).
    """

    mean: float
    interval: tuple[float, float]
    p: float

    @property
    def significant(self) -> bool:
        """Whether both the interval and the test say that the best is better."""
        return self.p < 0.05 and self.interval[0] > 0


@dataclass(frozen=True)
class Level:
    """A value of a factor.

    Attributes:
        name: The value.
        mean: Mean SCS over the contexts that all levels share or, if there are none, over all arms
            with this level.
        runs: Number of runs with this level.
        behind: Difference to the best level. None for the best level itself, or if no two arms
            differ in only these two levels.
        best: Whether it is the best level.
    """

    name: str
    mean: float
    runs: int
    behind: Difference | None
    best: bool


@dataclass(frozen=True)
class Factor:
    """A setting that differs between arms, and its effect.

    Attributes:
        name: Name of the setting.
        along: Settings that always change together with it.
        levels: The levels, best first.
    """

    name: str
    along: Sequence[str]
    levels: Sequence[Level]


@dataclass(frozen=True)
class Comparison:
    """The arms, best first, their differences to the best, and the factors."""

    arms: Sequence[Arm]
    behind: Sequence[Difference | None]
    factors: Sequence[Factor]

    def factor(self, name: str) -> Factor | None:
        """Returns a factor by name, or None if it is the same in all runs."""
        return next((f for f in self.factors if f.name == name), None)

    def by_category(self) -> list[tuple[str, int, list[float]]]:
        """Returns (category, number of examples, mean SCS of each arm), largest first."""
        first = self.arms[0].runs[0]
        ids = sorted(first.scores)
        groups: dict[str, list[int]] = {}
        for place, example in enumerate(ids):
            groups.setdefault(first.categories[example], []).append(place)
        ordered = sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))
        return [
            (name, len(places), [float(arm.scores[:, places].mean()) for arm in self.arms])
            for name, places in ordered
        ]


def distinct(runs: Sequence[Run]) -> tuple[list[Run], list[Apart]]:
    """Separates runs that repeat the settings and the seed of an earlier run."""
    seen: dict[tuple[Any, ...], str] = {}
    chosen: list[Run] = []
    apart: list[Apart] = []
    for run in runs:
        key = (tuple(sorted(_settings(run.config).items())), run.seed)
        if key in seen:
            apart.append(Apart(run.name, f"the same settings and seed as {seen[key]}"))
        else:
            seen[key] = run.name
            chosen.append(run)
    return chosen, apart


def analyse(runs: Sequence[Run]) -> Comparison:
    """Compares one or more runs that have the same data, metric and test examples."""
    flat = [_settings(run.config) for run in runs]
    factors, along = _factors(flat)
    members: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for place, settings in enumerate(flat):
        members.setdefault(tuple(sorted(settings.items())), []).append(place)
    arms = sorted(
        (_arm([runs[i] for i in places], flat[places[0]], factors) for places in members.values()),
        key=lambda arm: (-arm.mean, arm.label),
    )
    behind = _adjusted([_difference([(arms[0], arm)]) for arm in arms[1:]])
    effects = [_effect(name, along[name], factors, arms) for name in factors]
    return Comparison(arms, [None, *behind], [e for e in effects if len(e.levels) > 1])


def _settings(config: Mapping[str, Any]) -> dict[str, str]:
    """Flattens a run's settings, such as {"model": "smollm2", "optim.learning_rate": "0.0015"}."""
    flat: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, Mapping):
            kind = str(value.get("_target_", "")).rsplit(".", 1)[-1].lower()
            own = value.get("name") or kind
            if own and kind not in ("mix", "pairing", "chatapi", "preferences"):
                flat[prefix] = str(own)
            for key, inner in value.items():
                if key not in _NOT_LEAVES and not (key == "name" and prefix):
                    walk(f"{prefix}.{key}" if prefix else str(key), inner)
        elif value is not None and value != "":
            flat[prefix] = f"{value:g}" if isinstance(value, float) else str(value)

    ignored = set(_NOT_SETTINGS)
    if not uses_preferences(config):
        ignored.add("preferences")
    walk("", {k: v for k, v in config.items() if k not in ignored})
    flat.pop("", None)
    return flat | {"retriever": _retriever(config)}


def _retriever(config: Mapping[str, Any]) -> str:
    """Returns the name of the retriever that is trained along with the model, or of its run."""
    part = config.get("retriever")
    if not isinstance(part, Mapping):
        return "none"
    if part.get("run"):
        return PurePath(str(part["run"])).name
    return str((part.get("model") or {}).get("name") or "retriever")


def _factors(flat: Sequence[Mapping[str, str]]) -> tuple[list[str], dict[str, list[str]]]:
    """Returns the settings that differ, main ones first, and those that change along with them."""
    keys = sorted({key for settings in flat for key in settings})
    order = {name: i for i, name in enumerate(_PRINCIPAL)}
    varying = [key for key in keys if len({s.get(key, MISSING) for s in flat}) > 1]
    varying.sort(key=lambda key: (order.get(key, len(order)), key))
    kept: list[str] = []
    along: dict[str, list[str]] = {}
    for key in varying:
        leader = None
        if key not in order:
            leader = next((k for k in kept if _determines(k, key, flat)), None)
        if leader is None:
            kept.append(key)
            along[key] = []
        elif not key.startswith(leader + "."):  # settings inside an option are not mentioned
            along[leader].append(key)
    return kept, along


def _determines(leader: str, key: str, flat: Sequence[Mapping[str, str]]) -> bool:
    seen: dict[str, str] = {}
    return all(
        seen.setdefault(s.get(leader, MISSING), s.get(key, MISSING)) == s.get(key, MISSING)
        for s in flat
    )


def _arm(runs: Sequence[Run], settings: Mapping[str, str], factors: Sequence[str]) -> Arm:
    ordered = sorted(runs, key=lambda run: (run.seed, run.name))
    ids = sorted(ordered[0].scores)
    scores = np.array([[run.scores[i] for i in ids] for run in ordered], np.float64)
    levels = {name: settings.get(name, MISSING) for name in factors}
    words = [
        _word(name, value)
        for name, value in levels.items()
        if value != MISSING and name != "retriever"
    ]
    if not words:
        words = [settings.get(name, "") for name in ("model", "objective")]
    label = " · ".join(w for w in words if w)
    if settings["retriever"] != "none" and (
        "retriever" in factors or settings.get("model") in words
    ):
        label += f" + {settings['retriever']}"  # the scores are those of both models together
    prompts = group_numbers([ordered[0].prompts.get(i, i) for i in ids])
    draws = _draws([(scores, 1.0)], prompts)
    low, high = np.quantile(draws, [0.025, 0.975])
    return Arm(
        label,
        levels,
        ordered,
        scores,
        prompts,
        (float(low), float(high)),
        _over_seeds(scores.mean(1)),
    )


def _word(name: str, value: str) -> str:
    if name in _PRINCIPAL:
        return value
    if name == "first_stage.objective":
        return f"after {value}"
    return f"{name.rsplit('.', 1)[-1]} {value}"


def _over_seeds(means: NDArray[np.float64]) -> float:
    count = len(means)
    if count == 1:
        return math.nan
    return float(stats.t.ppf(0.975, count - 1) * means.std(ddof=1) / math.sqrt(count))


def _draws(
    parts: Sequence[tuple[NDArray[np.float64], float]],
    prompts: NDArray[np.int64],
    samples: int = 4000,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Draws bootstrap samples of a weighted sum of means.

    All parts share the resampled examples, and the runs of each part are resampled separately.
    Examples that share a prompt are resampled together.

    Args:
        parts: (scores [runs, n], weight) pairs.
        prompts: The number of each example's prompt, [n].
        samples: Number of bootstrap samples.
        seed: Seed of the samples.
    """
    rng = np.random.default_rng(seed)
    count = int(prompts.max()) + 1
    drawn = rng.multinomial(count, np.full(count, 1 / count), samples)[:, prompts]
    examples = drawn / drawn.sum(1, keepdims=True)
    total = np.zeros(samples)
    for scores, weight in parts:
        runs = len(scores)
        chosen = rng.multinomial(runs, np.full(runs, 1 / runs), samples) / runs
        total += weight * ((chosen @ scores) * examples).sum(1)
    return total


def _difference(pairs: Sequence[tuple[Arm, Arm]]) -> Difference:
    """Returns the mean difference between the first and the second arm over all pairs.

    Arms that have seeds in common are compared on those only, seed by seed. Otherwise, a lucky
    seed of one arm would count in favour of its setting.
    """
    each = 1 / len(pairs)
    parts: list[tuple[NDArray[np.float64], float]] = []
    for a, b in pairs:
        shared = sorted({run.seed for run in a.runs} & {run.seed for run in b.runs})
        if shared:
            parts.append((_of_seeds(a, shared) - _of_seeds(b, shared), each))
        else:
            parts += [(a.scores, each), (b.scores, -each)]
    by_example = sum(weight * scores.mean(0) for scores, weight in parts)
    prompts = pairs[0][0].prompts
    low, high = np.quantile(_draws(parts, prompts), [0.025, 0.975])
    mean = float(np.mean(by_example))
    p = sign_flip_p(np.asarray(by_example), groups=prompts.tolist())
    return Difference(mean, (float(low), float(high)), p)


def _of_seeds(arm: Arm, seeds: Sequence[int]) -> NDArray[np.float64]:
    """Returns scores [seeds, n], averaged over runs with the same seed."""
    return np.array([arm.scores[[r.seed == seed for r in arm.runs]].mean(0) for seed in seeds])


def _adjusted(differences: Sequence[Difference]) -> list[Difference]:
    p_values = holm([d.p for d in differences])
    return [Difference(d.mean, d.interval, p) for d, p in zip(differences, p_values, strict=True)]


def _effect(name: str, along: Sequence[str], factors: Sequence[str], arms: Sequence[Arm]) -> Factor:
    """Compares the levels of a factor between arms that are otherwise the same."""
    others = [f for f in factors if f != name]
    cells: dict[str, dict[tuple[str, ...], Arm]] = {}
    for arm in arms:
        context = tuple(arm.settings[f] for f in others)
        cells.setdefault(arm.settings[name], {})[context] = arm
    shared = set.intersection(*(set(c) for c in cells.values()))

    def mean(level: str) -> float:
        chosen = [a for c, a in cells[level].items() if not shared or c in shared]
        return float(np.mean([a.mean for a in chosen]))

    best = max(cells, key=mean) if shared else arms[0].settings[name]
    matched = {
        level: sorted(set(cells[level]) & set(cells[best])) for level in cells if level != best
    }
    tested = [level for level, contexts in matched.items() if contexts]
    differences = _adjusted(
        [_difference([(cells[best][c], cells[lv][c]) for c in matched[lv]]) for lv in tested]
    )
    behind = dict(zip(tested, differences, strict=True))
    levels = [
        Level(
            level,
            mean(level),
            sum(len(a.runs) for a in cells[level].values()),
            behind.get(level),
            level == best,
        )
        for level in cells
    ]
    levels.sort(key=lambda level: (not level.best, -level.mean))
    return Factor(_LABEL.get(name, name), along, levels)
