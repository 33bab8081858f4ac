import io
from dataclasses import replace

from matplotlib.image import imread
from rich.console import Console

from prompt_recovery.recovery.interface import Prediction
from prompt_recovery.reporting.charts import result_chart
from prompt_recovery.reporting.evaluation.scores import evaluate
from prompt_recovery.reporting.evaluation.tables import category_tables, result_table, sample_table
from prompt_recovery.tables import to_terminal


def evaluations(examples, scs):
    return [
        evaluate(name, [Prediction(e.id, answer) for e in examples], examples, scs, 1.0)
        for name, answer in [("mine [bold]", "Make it joyful [red]!"), ("other", "Fix grammar")]
    ]


def printed(table):
    console = Console(file=io.StringIO(), width=120)
    console.print(to_terminal(table))
    return console.file.getvalue()


def test_tables_show_the_numbers_and_texts_as_data(examples, scs):
    results = evaluations(examples, scs)
    table = printed(result_table(results, "Test"))
    assert "mine [bold]" in table
    assert f"{results[0].scs.mean():.3f}" in table
    assert table.index("mine") < table.index("other"), "the best comes first"
    assert "tone" in printed(*category_tables(results, examples))
    same = [replace(e, category="tone") for e in examples]
    assert category_tables(evaluations(same, scs), same) == [], "it would say nothing new"
    samples = printed(sample_table(results[0], examples, 5))
    assert samples.count("Make it joyful [red]!") == 5


def test_chart_is_a_picture_with_something_on_it(examples, scs, tmp_path):
    result_chart(evaluations(examples, scs), [(1, 0.1), (2, 0.2)], tmp_path / "a.png")
    picture = imread(tmp_path / "a.png")
    assert picture.shape[0] > 300
    assert picture[..., :3].std() > 0.05
