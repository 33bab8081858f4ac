"""Every command of the documentation composes, and those that a laptop can run do run.

A fenced block has classes that say what it needs, as in ```{.bash .run}: `run` runs here (on the
tiny model); `gpu`, `hub`, `account` and `ray` can't, and are composed; `sweeps` and `recover` name
what must be there for it. In README.md, where such a fence would not be highlighted, a comment
before it has the classes, as in <!-- run recover -->.
"""

import functools
import importlib.util
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from itertools import pairwise

import pytest
from hydra import compose, initialize_config_dir

from prompt_recovery.backbones.tiny import tiny_backbone
from prompt_recovery.settings.arguments import prepared
from prompt_recovery.settings.folder import config_folder
from tests import command_line
from tests.conftest import ROOT
from tests.forks import standing_in

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(
    r"^(?:<!-- ([\w ]+) -->\n)?```(?:bash|\{\.bash([^\n}]*)\})\n(.*?)^```", re.M | re.S
)


def commands_of(block):
    """The commands of a block; one may go on in the next line, inside quotes."""
    begun = ""
    for line in block.splitlines(keepends=True):
        begun += line
        if begun.endswith("\\\n"):
            continue
        try:
            words = words_of(begun)
        except ValueError:  # a quotation is not finished
            continue
        if words:
            yield begun.strip()
        begun = ""
    assert not begun


def words_of(line):
    joined = line.replace("\\\n", " ").replace("$FIRST", "first")
    return shlex.split(joined, comments=True)


COMMANDS = [
    pytest.param(
        set(re.findall(r"\w+", f"{block[1]} {block[2]}")),
        command,
        id=f"{page.stem}: {command[:60]}",
    )
    for page in PAGES
    for block in _BLOCK.finditer(page.read_text(encoding="utf-8"))
    for command in commands_of(block[3])
]
INLINE = sorted(
    {
        match[1]
        for page in PAGES
        for match in re.finditer(r"`(pip install [^`]+)`", page.read_text(encoding="utf-8"))
    }
)
# What makes a run one of seconds.
QUICK = [
    "retriever=none",
    "trainer.max_steps=2",
    "decoding.max_new_tokens=2",
    "split.val=0.005",
    "split.test=0.005",
    "trainer.enable_progress_bar=false",
    "preferences.mix.sampled=2",
    "preferences.mix.max_new_tokens=4",
]
# W&B starts a process for each run. Sweeps and commands that name a logger keep theirs.
UNTRACKED = ["logger=csv"]
# The starter dataset has a thousand long texts, all of which are tokenised, as are those of its
# preferences.
FEW = ["data=file", "data.path=pairs.csv", "split.val=0.1", "split.test=0.1"]
FEW_OF_STARTER = ["split.train_share=0.03"]
FEW_PREFERENCES = ["preferences=file", "preferences.path=preferences.jsonl"]


def hydra_part(words):
    """(name of the command, its overrides), if it is one of ours."""
    if "train.py" in words:
        return "train", words[words.index("train.py") + 1 :]
    if words[0] == "prompt-recovery" and not words[1].startswith("-"):
        return words[1], words[2:]
    return None


def single(overrides):
    """The first trial of a multirun."""
    if "-m" not in overrides:
        return [o for o in overrides if o not in ("--cfg", "job")]
    kept = [o for o in overrides if o != "-m"]
    return [re.sub(r"^([^=]+=[^,\[]+),.*", r"\1", o) for o in kept]


@pytest.mark.parametrize(("needs", "line"), COMMANDS)
def test_commands_compose(needs, line):
    words = words_of(line)
    ours = hydra_part(words)
    if ours is None:
        known_elsewhere(words)
        return
    name, overrides = ours
    if "ray" in needs and importlib.util.find_spec("hydra_plugins.hydra_ray_launcher") is None:
        overrides = [o for o in overrides if "launcher" not in o]
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        compose(name, prepared(name, single(overrides)), return_hydra_config=True)


def known_elsewhere(words):
    """Commands of others: that they exist, as far as that can be told without a network."""
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
        assert set(words[1:]) <= set(targets)
    elif words[0] == "wandb":
        assert helps_with(words[1])
        for path in words[2:]:
            if path.endswith(".yaml"):
                assert (ROOT / path).is_file()
    elif words[:2] in (["pip", "install"], ["pip", "download"]):
        for flag, path in pairwise(words):
            assert flag not in ("-r", "-c") or (ROOT / path).is_file()
    elif words in (["source", ".venv/bin/activate"], ["python3", "-m", "venv", ".venv"]):
        assert "VENV ?= .venv" in (ROOT / "Makefile").read_text()
    elif words[:2] == ["python", "-m"]:
        assert importlib.util.find_spec(words[2])
    elif words[0] == "python":
        assert words[1].startswith(("benchmarks/", "examples/"))
        assert (ROOT / words[1]).is_file()
    elif words[0] == "prompt-recovery":
        assert words[1:] == ["--version"]
    elif words[0] not in ("git", "cd", "find"):
        raise AssertionError(f"no test knows this command: {' '.join(words)}")


@functools.cache
def helps_with(command):
    words = [sys.executable, "-m", "wandb", command, "--help"]
    return subprocess.run(words, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("line", INLINE)
def test_extras_exist(line):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    for name in re.findall(r"\[(\w+)\]", line):
        assert name in extras


@pytest.fixture(scope="module")
def laptop(tmp_path_factory):
    """A folder with what the pages take for granted; commands share it, as a user's do."""
    folder = tmp_path_factory.mktemp("laptop")
    for name in ("train.py", "sweeps"):
        (shutil.copytree if name == "sweeps" else shutil.copy)(ROOT / name, folder / name)
    rows = [
        {
            "id": str(n),
            "original_text": f"The ferry number {n % 10} leaves at dawn.",
            "rewritten_text": f"At dawn, oh joy, ferry {n % 10} sails away! ({n})",
            "rewrite_prompt": f"Make it joyful, way number {n % 20}",
        }
        for n in range(150)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "shards").mkdir()
    (folder / "shards" / "a.jsonl").write_text(text)
    write_csv(folder / "pairs.csv", rows)
    pairs = [
        {
            "prompt": f"{r['original_text']} => {r['rewritten_text']}",
            "chosen": r["rewrite_prompt"],
            "rejected": "Say it",
        }
        for r in rows[:20]
    ]
    text = "".join(json.dumps(pair) + "\n" for pair in pairs)
    (folder / "preferences.jsonl").write_text(text)
    other = [
        {("instruction" if k == "rewrite_prompt" else k): v for k, v in r.items()} for r in rows
    ]
    write_csv(folder / "other.csv", [{k: v for k, v in r.items() if k != "id"} for r in other])
    renamed = [{"before": r["original_text"], "after": r["rewritten_text"]} for r in rows[:4]]
    write_csv(folder / "texts.csv", renamed)
    write_csv(folder / "test.csv", [{k: r[k] for k in list(r)[:3]} for r in rows[:4]])
    shutil.copytree(tiny_backbone("mistral"), folder / "my-model")
    return folder


@pytest.fixture(scope="module")
def with_run(laptop):
    """A folder with a run of a small dataset, whose texts are embedded for their votes."""
    folder = laptop / "with_run"
    folder.mkdir()
    for name in ("pairs.csv", "texts.csv", "test.csv"):
        shutil.copy(laptop / name, folder / name)
    finished(folder, "train", ["model=tiny", *QUICK, *FEW])
    return folder


def write_csv(path, rows):
    import csv

    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


# A command that several pages show runs once. What tests/runs/test_multirun.py runs with joblib
# takes minutes of new interpreters.
RUN = {
    (frozenset(needs), *words_of(line)): pytest.param(needs, line, id=shown)
    for needs, line, shown in ((*c.values, c.id) for c in COMMANDS)
    if "run" in needs and "launcher=joblib" not in line
}.values()


@pytest.mark.parametrize(("needs", "line"), RUN)
def test_commands_run(needs, line, laptop, request):
    name, overrides = hydra_part(words_of(line))
    if "sweeps" in needs:
        pytest.importorskip("sweeps.config", reason="needs the extra [sweeps]")
        quick = ", ".join(["train.py", "model=tiny", *QUICK, *FEW])
        for file in (ROOT / "sweeps").glob("*.yaml"):
            text = file.read_text().replace("python, train.py", f"python, {quick}")
            (laptop / "sweeps" / file.name).write_text(text)
    if name == "compare" or "recover" in needs:
        laptop = request.getfixturevalue("with_run")
    if name == "evaluate":
        quick = ["second_metric=null", "baselines=[]", "explain=false"]
        run = "recoverers=[{run: runs/latest, decoding: greedy}]"
        overrides = [o.replace("recoverers=[runs/latest]", run) for o in overrides]
        overrides = [*overrides, *FEW, *quick]
    if name == "recover":
        overrides = [*overrides, "decoding.max_new_tokens=2"]
    if name == "train" and "--cfg" not in overrides:
        own = [] if any(o.startswith("model.path") for o in overrides) else ["model=tiny"]
        given = {o.partition("=")[0] for o in overrides}
        quick = [q for q in [*QUICK, *UNTRACKED] if q.partition("=")[0] not in given]
        # One command has the starter's preferences; others read theirs, unless they sample them.
        of_starter = "preferences=auto" in overrides or "+experiment" in given
        data = [] if of_starter or "data" in given else FEW[:2]
        if data and "objective" in given and "preferences" not in given and "recover" not in needs:
            quick += FEW_PREFERENCES
        few = FEW[2:] if data or "data" in given else FEW_OF_STARTER
        overrides = [o for o in overrides if not o.startswith("model=") or not own]
        overrides = [*overrides, *own, *quick, *data, *few]
    result = finished(laptop, name, overrides)
    if "--cfg" in overrides:
        assert "objective:" in result.stdout


def finished(folder, name, overrides):
    # Lightning starts the other processes of a run, which become forks, too.
    result = command_line.run(name, *overrides, cwd=folder, **standing_in())
    assert result.returncode == 0, result.stderr[-3000:]
    return result


def test_figures_are_those_of_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    spec = importlib.util.spec_from_file_location("figures", ROOT / "docs" / "figures.py")
    figures = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(figures)
    for name in ("trees", "scs", "mbr", "rounds", "results", "evidence"):
        getattr(figures, name)().savefig(tmp_path / "a.svg", metadata={"Date": None})
        # Paths of letters differ between versions of fonts; what is drawn does not.
        drawn, kept = (
            len(re.findall("<(?:path|use)", p.read_text()))
            for p in (tmp_path / "a.svg", ROOT / "docs" / "figures" / f"{name}.svg")
        )
        assert drawn == kept, "run: python docs/figures.py"
