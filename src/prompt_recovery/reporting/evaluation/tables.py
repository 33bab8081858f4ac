"""Tables for the terminal. Texts of datasets are printed as data, never as markup."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from prompt_recovery.data.examples import RewriteExample
from prompt_recovery.reporting.evaluation.scores import Evaluation


def result_table(evaluations: Sequence[Evaluation], title: str) -> Table:
    """One row for each recoverer, the best first."""
    table = Table(title=title, title_justify="left")
    table.add_column("recoverer")
    for heading in ("SCS", "95 % interval", "cosine", "exact", "s / example"):
        table.add_column(heading, justify="right")
    best = max(float(e.scs.mean()) for e in evaluations)
    for e in sorted(evaluations, key=lambda e: -float(e.scs.mean())):
        table.add_row(
            Text(e.name),
            f"{e.scs.mean():.3f}",
            f"{e.interval[0]:.3f} … {e.interval[1]:.3f}",
            f"{e.cosine.mean():.3f}",
            f"{e.exact.mean():.1%}",
            "–" if e.seconds is None else f"{e.seconds / len(e.scs):.3f}",
            style="bold" if float(e.scs.mean()) == best else "",
        )
    return table


def category_table(evaluations: Sequence[Evaluation], examples: Sequence[RewriteExample]) -> Table:
    """Mean SCS by category, one column for each recoverer."""
    table = Table(title="Mean SCS by category", title_justify="left")
    table.add_column("category")
    table.add_column("n", justify="right")
    for e in evaluations:
        table.add_column(Text(e.name), justify="right")
    columns = [e.by_category(examples) for e in evaluations]
    for category, (_, count) in columns[0].items():
        values = [f"{column[category][0]:.3f}" for column in columns]
        table.add_row(Text(category), str(count), *values)
    return table


def sample_table(
    evaluation: Evaluation, examples: Sequence[RewriteExample], count: int = 10
) -> Table:
    """Predictions spread evenly from the best to the worst."""
    table = Table(
        title=f"{count} of the {evaluation.name}'s answers, best to worst", show_lines=True
    )
    table.title_justify = "left"
    table.add_column("SCS", justify="right")
    table.add_column("true prompt", ratio=1)
    table.add_column("recovered prompt", ratio=1)
    order = sorted(range(len(examples)), key=lambda i: -float(evaluation.scs[i]))
    count = min(count, len(order))
    for step in range(count):
        i = order[round(step * (len(order) - 1) / max(count - 1, 1))]
        predicted = evaluation.predictions[i].rewrite_prompt
        truth = examples[i].rewrite_prompt
        table.add_row(f"{evaluation.scs[i]:.2f}", Text(truth), Text(predicted))
    return table


def print_tables(*tables: Table) -> None:
    """Prints tables to the terminal."""
    console = Console()
    for table in tables:
        console.print(table)
