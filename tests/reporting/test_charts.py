import re

import numpy as np
import pytest
from matplotlib import image

from prompt_recovery.reporting.charts import result_chart
from prompt_recovery.reporting.evaluation.scores import Evaluation
from prompt_recovery.reporting.html.charts import Line, line_chart


@pytest.mark.parametrize(("curve", "charts"), [([(1, 0.1)], 1), ([(1, 0.1), (2, 0.2)], 2)])
def test_a_single_validation_is_not_drawn_as_a_curve(curve, charts, tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", saving(drawn, Figure.savefig))
    numbers = np.array([0.1, 0.2], np.float32)
    one = Evaluation("x", [], numbers, numbers, numbers > 1, numbers, (0.1, 0.2), None)
    result_chart([one], curve, tmp_path / "r.png")
    assert len(drawn[0].axes) == charts
    assert np.all(image.imread(tmp_path / "r.png")[0, 0] == 1), "an opaque white background"


def saving(drawn, save):
    def savefig(figure, *args, **options):
        drawn.append(figure)
        save(figure, *args, **options)

    return savefig


def test_the_labels_of_a_narrow_range_do_not_overlap():
    html = line_chart([Line("x", [(0.03215411, 0.1), (0.03215433, 0.2)])], "a", "b", "c")
    labels = re.findall(r'text-anchor="middle">(.*?)<', html)
    assert len(labels) >= 2
    assert 7 * sum(map(len, labels)) < 308, "the width of the axis"
