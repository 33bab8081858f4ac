"""Makes preferences from a dataset and the model that training starts from."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from annotated_types import Ge, Gt, Le, MinLen

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.data.splits import Splits, normalise
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.metrics.scs import SCS
from prompt_recovery.preferences.candidates import (
    Asking,
    CandidateSource,
    CorruptedTruths,
    OtherPrompts,
    PreferenceCandidate,
    RetrievedCandidates,
    SampledCandidates,
    collect_candidates,
)
from prompt_recovery.preferences.chat_api import ApiCandidates, ChatApi
from prompt_recovery.preferences.files import (
    Message,
    PreferenceExample,
    read_preferences,
    write_preferences,
)
from prompt_recovery.preferences.pairing import PERFECT, Pairing
from prompt_recovery.preferences.pool import joined, read_pool, write_pool
from prompt_recovery.preferences.scoring import score_candidates
from prompt_recovery.runs.folder import dense_retriever, weights_digest
from prompt_recovery.settings import AtLeastOne, Count, IsPath, LocalPath, checked
from prompt_recovery.storage import cache_dir, fingerprint
from prompt_recovery.tables import counted
from prompt_recovery.templates import chat_messages, chat_prompt, word_difference
from prompt_recovery.terminal import progress_bar

if TYPE_CHECKING:
    from prompt_recovery.recovery.retriever import Retriever  # loads torch
    from prompt_recovery.recovery.writer import Writer

log = logging.getLogger(__name__)
SHIPPED = Path(__file__).parents[1] / "data" / "starter" / "preferences" / "preferences.parquet"


@checked("preferences.mix")
@dataclass(frozen=True)
class Mix:
    """Number of candidates per example from each source.

    Attributes:
        sampled: Samples of the model that training starts from.
        zero_shot: Samples of its backbone alone.
        corrupted: Corrupted versions of the true prompt.
        others: Similar prompts of other examples.
        retrieved: Prompts that a dense retriever finds: `preferences.retriever`, or the run's own.
        api: Answers of a model behind an OpenAI-compatible endpoint.
        temperatures: Temperatures of the samples, used in turn; each in (0, 2].
        max_new_tokens: Maximum number of tokens in a sample.
    """

    sampled: Count = 6
    zero_shot: Count = 0
    corrupted: Count = 1
    others: Count = 1
    retrieved: Count = 0
    api: Count = 0
    temperatures: Annotated[Sequence[Annotated[float, Gt(0), Le(2)]], MinLen(1)] = (0.5, 0.7, 1.0)
    max_new_tokens: AtLeastOne = 24

    def in_turn(self, count: int) -> list[float]:
        """Returns the temperatures of `count` samples."""
        return [self.temperatures[i % len(self.temperatures)] for i in range(count)]

    def require_any(self) -> None:
        """Raises a `PromptRecoveryError` if no source is asked for a candidate."""
        counts = (
            self.sampled,
            self.zero_shot,
            self.corrupted,
            self.others,
            self.retrieved,
            self.api,
        )
        if not any(counts):
            raise PromptRecoveryError(
                "preferences.mix asks for no candidates: set one of its counts"
            )


@checked("preferences")
@dataclass(frozen=True)
class Preferences:
    """Settings that say where preferences come from.

    Attributes:
        path: A file in TRL's format. None makes new preferences. "auto" reads the file shipped
            with the starter dataset, and is the same as None for any other dataset.
        mix: Number of candidates from each source, if preferences are made.
        pairing: How candidates become preferences.
        api: The endpoint for `mix.api`.
        earlier: A folder of preferences that an earlier run made, whose candidates are added to
            those of this run. None adds none.
        retriever: A run or folder with a dense retriever, for `mix.retrieved`. None takes the
            run's own.
        most: The largest number of candidates of an example if earlier ones are added.
    """

    path: Annotated[str, IsPath(("auto",))] | None = "auto"
    mix: Mix = field(default_factory=Mix)
    pairing: Pairing = field(default_factory=Pairing)
    api: ChatApi = field(default_factory=ChatApi)
    earlier: LocalPath | None = None
    retriever: LocalPath | None = None
    most: Annotated[int, Ge(2)] = 32


def prepare_preferences(
    settings: Preferences,
    dataset: str,
    splits: Splits,
    writer: "Writer",
    scs: SCS,
    identity: str,
    group: bool,
    seed: int,
    folder: Path,
    asking: Asking | None = None,
) -> list[PreferenceExample]:
    """Reads or makes the preferences of the training split.

    Args:
        settings: Where preferences come from.
        dataset: Name of the dataset.
        splits: The dataset. Only the training split is used; rows of a file that belong to the
            other splits are left out and counted.
        writer: The model that training starts from.
        scs: The metric.
        identity: Identity of that model, for the cache of candidates.
        group: Whether the objective needs whole groups. Otherwise, groups are made into pairs.
        seed: Seed of the samples.
        folder: Where new preferences are written, with a card and a plot.
        asking: As in `collect_candidates`.

    Raises:
        PromptRecoveryError: If the file cannot be used or no preferences are left.
    """
    if group:
        settings = replace(settings, pairing=replace(settings.pairing, strategy="listwise"))
    path = _file(settings, dataset)
    if path is None:
        examples = _make(settings, splits.train, writer, scs, identity, seed, folder, asking)
    else:
        examples = _given(path, settings.pairing, splits)
    counts = Counter(len(e.completions) for e in examples)
    log.info(
        "preferences: %s of %s completions",
        counted(len(examples), "row"),
        " or ".join(map(str, sorted(counts))),
    )
    return examples


def require_preferences(settings: Preferences, dataset: str, splits: Splits) -> None:
    """Checks that `prepare_preferences` will have what it needs, before long work begins.

    Raises:
        PromptRecoveryError: If a file is missing or cannot be used, no candidates are asked for, or
            an endpoint is asked for some and lacks its key or its model.
    """
    path = _file(settings, dataset)
    if path is not None:
        if path != str(SHIPPED):
            _given(path, settings.pairing, splits)
        return
    settings.mix.require_any()
    if settings.mix.api:
        settings.api.usable_key(settings.api.model)
    if settings.earlier is not None:
        read_pool(Path(settings.earlier).expanduser())


def _file(settings: Preferences, dataset: str) -> str | None:
    """Returns the file with the preferences, or None if some are to be made."""
    if settings.path != "auto":
        return settings.path
    return str(SHIPPED) if dataset == "starter" and SHIPPED.is_file() else None


def _given(path: str, pairing: Pairing, splits: Splits) -> list[PreferenceExample]:
    """Reads the preferences of the training split from a file."""
    given = read_preferences(Path(path).expanduser())
    examples = _of_training(_with_own_ids(given, splits, path), splits, path)
    count = len(examples)
    examples = [made for e in examples for made in _chosen(e, pairing)]
    if not examples:
        raise PromptRecoveryError(
            f"preferences.path={path}: no row has completions that differ enough: lower "
            "preferences.pairing.margin"
        )
    if len(examples) < count:
        log.info("preferences %s: %s gave none", path, counted(count - len(examples), "row"))
    return examples


def _with_own_ids(
    examples: Sequence[PreferenceExample], splits: Splits, path: str
) -> list[PreferenceExample]:
    """Keeps the ids of rows that belong to rewrite examples.

    A row belongs to the example with its id if its prompt holds both texts of it. An id may be the
    same by chance, such as a number; then it is removed.
    """
    by_id = {e.id: e for e in (*splits.train, *splits.val, *splits.test, *splits.unused)}
    found = [
        e if e.id not in by_id or _holds(e.prompt, by_id[e.id]) else replace(e, id="")
        for e in examples
    ]
    others = sum(a is not b for a, b in zip(found, examples, strict=True))
    if others:
        log.warning(
            "preferences %s: %d rows have an id of the dataset, but a prompt without its two "
            "texts; they are used as they are",
            path,
            others,
        )
    return found


def _holds(prompt: str | list[Message], example: RewriteExample) -> bool:
    """Returns whether a prompt holds both texts of an example, or the difference of its words."""
    given = prompt if isinstance(prompt, str) else "\n".join(m["content"] for m in prompt)
    inside = normalise(given)
    texts = (example.original_text, example.rewritten_text)
    return all(normalise(text) in inside for text in texts) or (
        word_difference(*texts) in " ".join(given.split())
    )


def _of_training(
    examples: Sequence[PreferenceExample], splits: Splits, path: str
) -> list[PreferenceExample]:
    """Removes the rows of the validation and test splits, and of unused training examples."""
    unused = {e.id for e in splits.unused}
    examples = [e for e in examples if e.id not in unused]
    held_out = {e.id for e in (*splits.val, *splits.test)}
    kept = [e for e in examples if e.id not in held_out]
    if len(kept) < len(examples):
        log.info(
            "preferences %s: left out %s of the validation and test splits",
            path,
            counted(len(examples) - len(kept), "row"),
        )
    if not kept:
        raise PromptRecoveryError(
            f"preferences.path={path}: holds no row of the training split; use preferences=sample"
        )
    return kept


def _chosen(example: PreferenceExample, pairing: Pairing) -> list[PreferenceExample]:
    """Applies the pairing strategy to a group. A pair is returned unchanged."""
    if len(example.completions) == 2:
        return [example]
    scored = list(zip(example.completions, example.scores, strict=True))
    # In a file, the truth is the completion with a perfect score, and it is not a candidate. If
    # there is none, the best completion takes its place and is one of the candidates, too.
    truth = scored[0]
    others = scored[1:] if truth[1] > PERFECT else scored
    candidates = [PreferenceCandidate(text, "", score) for text, score in others]
    return [
        replace(
            example,
            completions=tuple(text for text, _ in group),
            scores=tuple(score for _, score in group),
        )
        for group in pairing.groups(example.id, truth, candidates)
    ]


def _make(
    settings: Preferences,
    examples: Sequence[RewriteExample],
    writer: "Writer",
    scs: SCS,
    identity: str,
    seed: int,
    folder: Path,
    asking: Asking | None,
) -> list[PreferenceExample]:
    sources = candidate_sources(settings, examples, writer, scs, seed)
    key = fingerprint(
        identity,
        [asdict(e) for e in examples],
        {k: v for k, v in asdict(settings.mix).items() if k != "retrieved" or v},
        [settings.api.model, settings.api.url and settings.api.address]
        if settings.mix.api
        else None,
        [asdict(writer.template), writer.max_prompt_tokens],
        scs.encoder.identity if settings.mix.others else None,
        *([weights_digest(proposing_retriever(settings))] if settings.mix.retrieved else []),
        seed,
    )
    with progress_bar() as progress:
        task = progress.add_task("sampling candidates", total=len(examples))
        found = collect_candidates(
            examples,
            sources,
            cache_dir("candidates") / f"{key}.jsonl",
            lambda n: progress.advance(task, n),
            asking,
        )
    scored = score_candidates(scs, examples, found)
    sampled = scored
    if settings.earlier is not None:
        pool = read_pool(Path(settings.earlier).expanduser())
        before = score_candidates(scs, examples, {e.id: pool.get(e.id, []) for e in examples})
        scored = joined(before, scored, settings.most)
    made = [
        PreferenceExample(
            id=e.id,
            prompt=_prompt(e, writer),
            completions=tuple(text for text, _ in group),
            scores=tuple(score for _, score in group),
        )
        for e in examples
        for group in settings.pairing.groups(e.id, (e.rewrite_prompt, 1.0), scored[e.id])
    ]
    if not made:
        raise PromptRecoveryError(
            "no example got candidates that differ enough: lower preferences.pairing.margin or "
            "raise preferences.mix.sampled"
        )
    if len(made) < len(examples):
        log.info("preferences: %d examples gave none", len(examples) - len(made))
    write_preferences(made, folder, _record(settings, sampled, writer, scs, seed))
    write_pool(scored, folder)
    return made


def candidate_sources(
    settings: Preferences,
    examples: Sequence[RewriteExample],
    writer: "Writer",
    scs: SCS,
    seed: int,
) -> list[CandidateSource]:
    """Returns the sources of candidates that `settings.mix` asks for.

    Raises:
        PromptRecoveryError: If it asks for none.
    """
    mix = settings.mix
    mix.require_any()
    prompts = sorted({e.rewrite_prompt for e in examples})
    sources: list[CandidateSource] = []
    for name, count in (("sampled", mix.sampled), ("zero_shot", mix.zero_shot)):
        if count:
            model = replace(writer, adapter=writer.adapter and name == "sampled")
            temperatures = mix.in_turn(count)
            sources.append(SampledCandidates(model, temperatures, mix.max_new_tokens, seed, name))
    if mix.corrupted:
        sources.append(CorruptedTruths(prompts, mix.corrupted, seed))
    if mix.others:
        sources.append(OtherPrompts(prompts, scs, mix.others, seed))
    if mix.retrieved:
        sources.append(RetrievedCandidates(_retriever(settings, scs), mix.retrieved))
    if mix.api:
        temperatures = mix.in_turn(mix.api)
        sources.append(
            ApiCandidates(settings.api, writer.template, temperatures, mix.max_new_tokens)
        )
    return sources


def proposing_retriever(settings: Preferences) -> Path:
    """The folder of the retriever that `mix.retrieved` asks.

    Raises:
        PromptRecoveryError: If there is none.
    """
    if settings.retriever is None:
        raise PromptRecoveryError(
            f"preferences.mix.retrieved={settings.mix.retrieved}: needs a dense retriever: give "
            "preferences.retriever=<run>, or retriever=contrastive"
        )
    return dense_retriever(settings.retriever, "preferences.retriever")


def _retriever(settings: Preferences, scs: SCS) -> "Retriever":
    from prompt_recovery.recovery.load import load_retriever  # loads torch

    return load_retriever(proposing_retriever(settings), scs)


def _prompt(example: RewriteExample, writer: "Writer") -> str | list[Message]:
    texts = {
        "original_text": example.original_text,
        "rewritten_text": example.rewritten_text,
    }
    if writer.template.chat and not writer.template.prefill:
        return chat_messages(writer.template, writer.tokenizer, **texts)
    return chat_prompt(writer.template, writer.tokenizer, **texts)


def _record(
    settings: Preferences,
    scored: dict[str, list[PreferenceCandidate]],
    writer: "Writer",
    scs: SCS,
    seed: int,
) -> dict[str, Any]:
    every = [c for candidates in scored.values() for c in candidates]
    record: dict[str, Any] = {
        "candidates": len(every),
        "best candidate of each example, mean score": f"{_best(scored):.3f}",
    }
    for source in sorted({c.source for c in every}):
        scores = [c.scs for c in every if c.source == source]
        record[f"{source}: candidates, mean score"] = f"{len(scores)}, {np.mean(scores):.3f}"
    return record | {
        "pairing": asdict(settings.pairing),
        "mix": asdict(settings.mix),
        "sampled from": writer.name,
        "template": writer.template.name,
        "metric": f"SCS, exponent {scs.exponent}, encoder {scs.encoder.identity}",
        "seed": seed,
    }


_OF_OTHERS = ("corrupted", "others", "retrieved")
"""Sources of candidates that no model wrote."""


def _best(scored: dict[str, list[PreferenceCandidate]]) -> float:
    own = [
        max(
            (c.scs for c in candidates if c.source not in _OF_OTHERS),
            default=None,
        )
        for candidates in scored.values()
    ]
    return float(np.mean([s for s in own if s is not None] or [np.nan]))
