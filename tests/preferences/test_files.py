import json
import math
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.errors import PromptRecoveryError
from prompt_recovery.objectives import DPO
from prompt_recovery.preferences import (
    PreferenceExample,
    Preferences,
    files,
    read_preferences,
    write_preferences,
)
from prompt_recovery.training.job import Optimisation
from prompt_recovery.training.run import train
from tests.training.test_run import make_job

CHAT = [{"role": "system", "content": "Bref."}, {"role": "user", "content": "Fähre | 🛳️ → 渡し船"}]
MADE = [
    PreferenceExample("a", CHAT, ("Sing 🎵", "歌って", "نشيد"), (1.0, 0.25, -0.5)),
    PreferenceExample("", CHAT[1:], ("Über\nzwei Zeilen", "x"), (math.nan, math.nan)),
]


def same(read, written):
    assert [(e.id, e.prompt, e.completions) for e in read] == [
        (e.id, e.prompt, e.completions) for e in written
    ]
    for a, b in zip(read, written, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)  # NaN is NaN here


some_text = st.text(min_size=1, max_size=30).filter(str.strip)
roles = st.sampled_from(["system", "user", "assistant"])
messages = st.lists(
    st.fixed_dictionaries({"role": roles, "content": some_text}), min_size=1, max_size=3
)


@st.composite
def preferences(draw):
    prompts = draw(st.sampled_from([some_text, messages]))
    rows = []
    for n in range(draw(st.integers(1, 4))):
        texts = draw(st.lists(some_text, min_size=2, max_size=5, unique_by=str.strip))
        scores = [draw(st.floats(-1, 1) | st.just(math.nan)) for _ in texts]
        if all(map(math.isfinite, scores)):
            scores.sort(reverse=True)
        id_ = draw(st.sampled_from(["", f"row-{n}", "0"]))
        rows.append(PreferenceExample(id_, draw(prompts), tuple(texts), tuple(scores)))
    return rows


@settings(deadline=None, max_examples=30)
@given(preferences())
def test_what_is_written_is_read_again(tmp_path_factory, rows):
    with patch.object(files, "_plot"):  # slow, and looked at below
        path = write_preferences(rows, tmp_path_factory.mktemp("p"), {})
    same(read_preferences(path), rows)


def test_columns_card_and_plot(tmp_path):
    path = write_preferences(MADE, tmp_path / "new", {"made | by": "a|b\nc", "seed": 3})
    same(read_preferences(path), MADE)
    first, second = pq.read_table(path).to_pylist()
    assert first["prompt"] == CHAT
    assert first["chosen"] == [{"role": "assistant", "content": "Sing 🎵"}]
    assert first["rejected"] == [{"role": "assistant", "content": "نشيد"}]
    assert (first["chosen_score"], first["rejected_score"]) == (1.0, -0.5)
    assert second["chosen"][0]["content"] == "Über\nzwei Zeilen"
    card = (tmp_path / "new" / "README.md").read_text(encoding="utf-8")
    assert "| rows | 2 |" in card
    assert "| completions per row | 2: 1 row, 3: 1 row |" in card
    assert "| made \\| by | a\\|b c |" in card
    assert "| seed | 3 |" in card
    assert (tmp_path / "new" / "scores.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in (tmp_path / "new").iterdir()) == [
        "README.md",
        "preferences.parquet",
        "scores.png",
    ]


def test_plain_prompts_stay_texts(tmp_path):
    rows = [PreferenceExample("a", "plain: ", ("x", "y"), (0.5, 0.25))]
    path = write_preferences(rows, tmp_path, {})
    same(read_preferences(path), rows)
    [row] = pq.read_table(path).to_pylist()
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("plain: ", "x", "y")


USER = {"role": "user", "content": "Two texts"}
GOOD = {"prompt": "p", "chosen": "good", "rejected": "bad"}


def said(text, **more):
    return [{"role": "assistant", "content": text, **more}]


def jsonl(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "prompt", "scores"),
    [
        ({"prompt": "p", "chosen": "good", "rejected": "bad"}, "p", (math.nan, math.nan)),
        (
            {"prompt": [USER], "chosen": said("good"), "rejected": said("bad"), "chosen_score": 1},
            [USER],
            (1.0, math.nan),
        ),
        (
            {"chosen": [USER, *said("good")], "rejected": [USER, *said("bad")]},
            [USER],
            (math.nan, math.nan),
        ),
        (
            {"prompt": [{**USER, "name": "A."}], "chosen": "good", "rejected": said("bad", tools=0),
             "chosen_score": "0.5", "rejected_score": ""},
            [USER],
            (0.5, math.nan),
        ),
        (
            {"prompt": "p", "chosen": "-", "rejected": "-", "completions": ["good", "bad"],
             "scores": [0.5, None]},
            "p",
            (0.5, math.nan),
        ),
    ],
)  # fmt: skip
def test_files_that_others_wrote(row, prompt, scores, tmp_path):
    read = read_preferences(jsonl(tmp_path / "theirs.jsonl", row, {**row, "id": 0}))
    expected = PreferenceExample("", prompt, ("good", "bad"), scores)
    same(read, [expected, PreferenceExample("0", *list(vars(expected).values())[1:])])


def test_rows_that_prefer_nothing_are_left_out_and_counted(tmp_path, caplog):
    same_text = {"prompt": "p", "chosen": "Make it rhyme.", "rejected": " Make it rhyme. "}
    contrary = {**GOOD, "chosen_score": 0.1, "rejected_score": 0.9}
    one_text = {**GOOD, "completions": ["a", "a", "a "], "scores": [0.3, 0.2, 0.1]}
    path = jsonl(tmp_path / "theirs.jsonl", same_text, contrary, GOOD, same_text, one_text)
    [kept] = read_preferences(path)
    assert kept.completions == ("good", "bad")
    assert "left out 3 rows: its completions are equal" in caplog.text
    assert "left out 1 row: chosen has a lower score than rejected" in caplog.text
    with pytest.raises(PromptRecoveryError, match="holds no preferences .*completions are equal"):
        read_preferences(jsonl(tmp_path / "none.jsonl", same_text, same_text))


@pytest.mark.parametrize(
    ("texts", "scores", "expected", "ordered"),
    [
        (["Translate it.", "Make it rhyme."], [0.1, 0.9], ("Make it rhyme.", "Translate it."),
         (0.9, 0.1)),
        (["c", "a", "b"], [0.1, 0.9, 0.5], ("a", "b", "c"), (0.9, 0.5, 0.1)),
        (["a", "b", "a"], [0.1, 0.5, 0.9], ("a", "b"), (0.9, 0.5)),
        (["a", "b", "c"], [0.5, 0.5, 0.9], ("c", "a", "b"), (0.9, 0.5, 0.5)),
    ],
)  # fmt: skip
def test_a_group_is_sorted_by_its_scores(texts, scores, expected, ordered, tmp_path):
    row = {**GOOD, "completions": texts, "scores": scores}
    [read] = read_preferences(jsonl(tmp_path / "theirs.jsonl", row))
    assert (read.completions, read.scores) == (expected, ordered)


def test_csv_without_scores_and_ids(tmp_path):
    path = tmp_path / "theirs.csv"
    path.write_text('prompt,chosen,rejected\n"a, b",good,bad\nc,"two\nlines",🐝\n', "utf-8")
    nan = (math.nan, math.nan)
    expected = [
        PreferenceExample("", "a, b", ("good", "bad"), nan),
        PreferenceExample("", "c", ("two\nlines", "🐝"), nan),
    ]
    same(read_preferences(path), expected)


@pytest.mark.parametrize("implicit", [False, True])
def test_parquet_of_the_datasets_library(implicit, tmp_path):
    from datasets import Dataset

    head = [USER] if implicit else []
    row = {"chosen": [*head, *said("good")], "rejected": [*head, *said("bad")]}
    rows = [row if implicit else {"prompt": [USER], **row}] * 3
    Dataset.from_list(rows).to_parquet(tmp_path / "theirs.parquet")
    [first, *_] = read_preferences(tmp_path / "theirs.parquet")
    assert (first.prompt, first.completions) == ([USER], ("good", "bad"))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"prompt": "p", "chosen": "x"}, "column 'rejected' is missing (columns here: prompt, cho"),
        ({**GOOD, "prompt": " "}, "column 'prompt' is empty; correct or remove the row"),
        ({**GOOD, "prompt": None}, "column 'prompt' is missing"),
        ({**GOOD, "prompt": 7}, "column 'prompt' is not a text but a int"),
        ({**GOOD, "prompt": []}, "column 'prompt' is not a list of messages with role and content"),
        ({**GOOD, "prompt": ["hello"]}, "column 'prompt' is not a list of messages"),
        ({**GOOD, "prompt": [{"content": "x"}]}, "column 'prompt' is not a list of messages"),
        ({**GOOD, "prompt": [{"role": "user"}]}, "column 'prompt' is not a list of messages"),
        (
            {**GOOD, "prompt": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "column 'prompt' is not a list of messages",
        ),
        ({"chosen": said("x"), "rejected": said("y")}, "column 'prompt' is not a list of messages"),
        (
            {"chosen": [USER, *said("x")], "rejected": [{**USER, "content": "?"}, *said("y")]},
            "column 'prompt' is missing, and chosen and rejected begin with different messages",
        ),
        ({**GOOD, "chosen": ""}, "a completion is empty; correct or remove the row"),
        ({**GOOD, "chosen": []}, "a completion is not a text but a list"),
        ({**GOOD, "chosen": ["x"]}, "a completion is not a text but a list"),
        ({**GOOD, "rejected": said(None)}, "a completion is missing"),
        ({**GOOD, "rejected": "half \ud83d"}, "a completion holds half a surrogate pair"),
        ({**GOOD, "completions": ["x", " "]}, "a completion is empty"),
        ({**GOOD, "completions": '["x", "y"]'}, "column 'completions' is not a list; correct it"),
        ({**GOOD, "scores": 0.5}, "column 'scores' is not a list; correct it, or leave"),
        ({**GOOD, "scores": [1]}, "has 2 completions and 1 scores; give as many scores as"),
        ({**GOOD, "completions": ["x"], "scores": [1]}, "has 1 completions and 1 scores"),
        ({**GOOD, "chosen_score": "high"}, "score 'high' is not a number; correct it, or leave it"),
        ({**GOOD, "scores": [1, [2]]}, "score [2] is not a number"),
        ({**GOOD, "scores": [1, 1e400]}, "score inf is not a number"),
        ({**GOOD, "scores": [1, 10**400]}, "score 1000"),
        ({**GOOD, "chosen_score": True}, "score True is not a number"),
        ({**GOOD, "id": [1]}, "column 'id' is not a text or a number but a list; correct it"),
        ({**GOOD, "chosen": "x" * 60_000}, "a completion has 60,000 characters, and a prompt may"),
        ({**GOOD, "prompt": [{"role": "system", "content": ""}]}, "column 'prompt' is not a list"),
    ],
)  # fmt: skip
def test_a_bad_row_is_named_with_its_mend(bad, message, tmp_path):
    with pytest.raises(PromptRecoveryError) as raised:
        read_preferences(jsonl(tmp_path / "theirs.jsonl", GOOD, bad))
    assert str(raised.value).startswith(f"theirs.jsonl, row 2: {message}")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("content", ["", None])
def test_an_empty_system_message_says_nothing(content, tmp_path):
    row = {**GOOD, "prompt": [{"role": "system", "content": content}, USER]}
    [read] = read_preferences(jsonl(tmp_path / "theirs.jsonl", row))
    assert read.prompt == [USER]


def test_no_rows_and_no_file(tmp_path):
    with pytest.raises(PromptRecoveryError, match="empty.jsonl: is empty"):
        read_preferences(jsonl(tmp_path / "empty.jsonl"))
    with pytest.raises(PromptRecoveryError, match="no such file; give preferences.path=<file>"):
        read_preferences(tmp_path / "none.jsonl")
    with pytest.raises(PromptRecoveryError, match="unknown format; use one of"):
        read_preferences(jsonl(tmp_path / "rows.txt", GOOD))


@pytest.mark.parametrize("chat", [True, False])
def test_trl_trains_on_our_file(chat, tokenizer, tmp_path):
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    rows = [
        PreferenceExample(
            f"row-{n}",
            [{"role": "user", "content": f"ferry {n}"}] if chat else f"ferry {n} =>",
            (f" Be merry {n}", " No", " Nothing"),
            (1.0, 0.2, 0.1),
        )
        for n in range(8)
    ]
    path = write_preferences(rows, tmp_path / "ours", {})
    data = load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
    options = DPOConfig(
        output_dir=str(tmp_path / "out"),
        per_device_train_batch_size=2,
        max_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
    )
    model = AutoModelForCausalLM.from_pretrained(tiny_backbone("llama"), dtype=torch.float32)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    trainer = DPOTrainer(
        model, args=options, train_dataset=data, processing_class=tokenizer, peft_config=lora
    )
    [seen] = [row for row in trainer.train_dataset if row["id"] == "row-3"]
    assert "ferry 3" in tokenizer.decode(seen["prompt_ids"])
    answers = [tokenizer.decode(seen[f"{name}_ids"]) for name in ("chosen", "rejected")]
    assert [a.strip() for a in answers] == ["Be merry 3</s>", "Nothing</s>"]
    trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.state.log_history[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    changed = [p for n, p in trainer.model.named_parameters() if "lora_B.default" in n]
    assert any(p.abs().max() > 0 for p in changed)


def test_we_train_on_a_file_of_trl(tmp_path, examples, scs):
    theirs = [
        {
            "chosen": [USER, *said("Be merry" + n * " and loud")],
            "rejected": [USER, *said(f"No {n}")],
        }
        for n in range(12)
    ]
    path = jsonl(tmp_path / "theirs.jsonl", *theirs)
    changes = {"objective": DPO(sft_weight=0.0), "preferences": Preferences(str(path))}
    slowly = Optimisation(learning_rate=1e-6)
    metrics = train(make_job(tmp_path / "run", examples, scs, optim=slowly, **changes))
    assert metrics["train/steps"] == 2
    # The policy is still its own reference, if each completion has its own reference.
    assert metrics["train/loss"] == pytest.approx(math.log(2), rel=1e-3)
    adapter = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert any(w.abs().max() > 0 for name, w in adapter.items() if "lora_B" in name)
    assert not (tmp_path / "run" / "preferences").exists()  # nothing was sampled
