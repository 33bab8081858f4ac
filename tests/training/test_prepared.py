import logging
from dataclasses import replace

from prompt_recovery.data.examples import Dataset
from prompt_recovery.training.prepared import describe_data
from tests.training.test_run import make_job


def test_the_log_says_how_many_different_prompts_each_split_has(
    tmp_path, few_examples, scs, caplog
):
    job = make_job(tmp_path / "run", few_examples, scs)
    parts = {name: getattr(job.splits, name) for name in ("train", "val", "test")}
    counts = [(len(rows), len({r.rewrite_prompt for r in rows})) for rows in parts.values()]
    assert [rows for rows, _ in counts] == [2 * prompts for _, prompts in counts]
    caplog.set_level(logging.INFO)
    describe_data(job)
    train, val, test = counts
    assert caplog.messages[-1] == (
        f"data d: {train[0]} train ({train[1]} prompts), {val[0]} val ({val[1]} prompts), "
        f"{test[0]} test ({test[1]} prompts)"
    )
    describe_data(replace(job, splits=replace(job.splits, test=[]), dataset=Dataset("e", [])))
    assert caplog.messages[-1].endswith("prompts), no test")
