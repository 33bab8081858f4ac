import importlib.util
import re

from tests.conftest import ROOT

_SPEC = importlib.util.spec_from_file_location("index", ROOT / "docs" / "experiments_index.py")
experiments_index = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(experiments_index)


def test_the_index_is_up_to_date():
    written = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
    assert written == experiments_index.index(ROOT / "experiments"), (
        "run: python docs/experiments_index.py"
    )


def test_every_experiment_says_what_it_asked_and_how():
    for path in sorted((ROOT / "experiments").glob("*.*")):
        if path.suffix == ".json" or path.name in ("README.md", "learnt.md"):
            continue
        fields = experiments_index.header(path)
        assert {"Question", "Command"} <= set(fields), path.name
        numbers = [path.with_suffix(f".{kind}.json").is_file() for kind in ("metrics", "report")]
        assert ({"Result", "Date"} <= set(fields)) == any(numbers), path.name


def test_headers_are_read_whole(tmp_path):
    (tmp_path / "a.yaml").write_text(
        "# @package _global_\n# Question: is it\n#           so?\n# Command:  run | it\nx: 1\n"
    )
    assert experiments_index.header(tmp_path / "a.yaml") == {
        "Question": "is it so?",
        "Command": "run | it",
    }
    page = experiments_index.index(tmp_path)
    assert page.endswith("## Not run yet\n\n### [a](a.yaml)\n\n*Is it so?*\n")
    (tmp_path / "b.md").write_text(
        "# Who is best?\n\n- Question: who\n  is best?\n- Command:  `run`\n"
        "- Result: a_b, by 0.1; b.report.json\n- Date: today\n\n| a |\n"
    )
    (tmp_path / "b.report.json").write_text("{}")
    (tmp_path / "learnt.md").write_text("That it is so, by `b` and `c`.\n")
    page = experiments_index.index(tmp_path)
    assert "\n\n# Experiments\n\nThat it is so, by [`b`](b.md) and `c`.\n\n" in page
    shown = "### [b](b.md)\n\n*Who is best?*\n\nA\\_b, by 0.1.\n\ntoday. "
    assert f"## Results\n\n{shown}[b.report.json](b.report.json).\n" in page


def test_commands_of_experiments_can_be_copied():
    """A remark among them would be pasted into a shell with them."""
    for path in sorted((ROOT / "experiments").glob("*.yaml")):
        inside = False
        for line in path.read_text(encoding="utf-8").splitlines():
            field = experiments_index.FIELD.match(line)
            inside = line.startswith("#") and (field[1] == "Command" if field else inside)
            if inside:
                text = field[2] if field else line.lstrip("# ")
                assert re.match(r"(?:python|prompt-recovery) [^()`]*$", text), (path.name, text)
