"""Runs the notebooks in `examples/` and stores what their cells show.

    python docs/notebooks.py

A notebook here is plain Python with text and figures, so that running it needs nothing of Jupyter.
"""

import ast
import base64
import io
import json
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from prompt_recovery.storage import atomic_write

FOLDER = Path(__file__).parents[1] / "examples"


def run(notebook: dict[str, Any]) -> dict[str, Any]:
    """Returns the notebook with the outputs of its code cells, which run in order."""
    names: dict[str, Any] = {"__name__": "__main__"}
    cells, count = [], 0
    for cell in notebook["cells"]:
        made = {}
        if cell["cell_type"] == "code":
            count += 1
            outputs = _outputs("".join(cell["source"]), names, count)
            made = {"execution_count": count, "outputs": outputs}
        cells.append(cell | made)
    return notebook | {"cells": cells}


def _outputs(source: str, names: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """What a cell prints, and the value of its last expression."""
    body = ast.parse(source)
    last = body.body.pop() if body.body and isinstance(body.body[-1], ast.Expr) else None
    printed = io.StringIO()
    value = None
    with redirect_stdout(printed):
        exec(compile(body, f"<cell {count}>", "exec"), names)
        if isinstance(last, ast.Expr):
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    outputs: list[dict[str, Any]] = []
    if printed.getvalue():
        text = printed.getvalue().splitlines(keepends=True)
        outputs.append({"name": "stdout", "output_type": "stream", "text": text})
    if value is not None:
        outputs.append(
            {
                "data": _shown(value),
                "execution_count": count,
                "metadata": {},
                "output_type": "execute_result",
            }
        )
    return outputs


def _shown(value: Any) -> dict[str, Any]:
    if isinstance(value, Figure):
        picture = io.BytesIO()
        value.savefig(picture, format="png", dpi=80, metadata={"Software": None})
        encoded = base64.b64encode(picture.getvalue()).decode()
        return {"image/png": encoded, "text/plain": ["<Figure>"]}
    return {"text/plain": [repr(value)]}


if __name__ == "__main__":
    for path in sorted(FOLDER.glob("*.ipynb")):
        done = run(json.loads(path.read_text(encoding="utf-8")))
        with atomic_write(path) as temporary:
            text = json.dumps(done, indent=1, ensure_ascii=False) + "\n"
            temporary.write_text(text, encoding="utf-8")
