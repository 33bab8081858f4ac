"""Products of 8-bit integers against the same products in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from prompt_recovery.kernels.eight_bit import EightBitProduct, eight_bits_work, quantise_linear
from tests.closeness import assert_close

pytestmark = pytest.mark.skipif(not eight_bits_work(), reason="needs a processor with VNNI")
ROUNDING = 3e-6  # relative; integers are summed exactly, and three factors are fp32


def layer(inputs=96, outputs=40, bias=True, seed=0):
    torch.manual_seed(seed)
    made = nn.Linear(inputs, outputs, bias=bias)
    return made.requires_grad_(False)


def quantised(largest=None, **options):
    """A layer in 8 bits, its product, and the weight that it stands for, fp64 [o, i]."""
    made = layer(**options)
    exact = made.weight.detach().clone()
    largest = torch.ones(made.in_features) if largest is None else largest
    quantise_linear(made, largest)
    product = made.forward.product
    assert isinstance(product, EightBitProduct)
    stands_for = made.weight.double() * product._rows[:, None] * product._columns
    return made, product, exact, stands_for


def with_outliers(rows, inputs):
    """Activations of which three are a hundred times larger than the others."""
    x = torch.randn(rows, inputs, generator=torch.Generator().manual_seed(3))
    x[:, [1, 20, 50]] *= 100
    return x


def relative_error(ours, theirs):
    return ((ours.double() - theirs.double()).norm() / theirs.double().norm()).item()


def test_weights_become_bytes_that_stand_for_nearly_the_same_numbers():
    made, _, exact, stands_for = quantised()
    assert made.weight.dtype == torch.int8
    assert not made.weight.requires_grad
    assert 120 <= made.weight.abs().max() <= 127
    assert relative_error(stands_for, exact) < 0.01


def test_products_are_those_of_rounded_rows():
    made, product, _, stands_for = quantised()
    x = torch.randn(7, 96)
    scaled = x * product._columns
    step = scaled.abs().amax(1, keepdim=True) / 127
    rounded = (scaled / step).round().double() * step / product._columns
    assert_close(made(x), rounded @ stands_for.T + made.bias, rtol=ROUNDING)
    assert relative_error(made(x), x.double() @ stands_for.T + made.bias) < 0.02


def test_inputs_that_are_known_to_be_large_leave_the_others_their_bits():
    x = with_outliers(64, 96)
    errors = []
    for largest in (torch.ones(96), x.abs().amax(0)):
        made, _, exact, _ = quantised(largest, bias=False)
        ordinary = x.clone()
        ordinary[:, [1, 20, 50]] = 0  # what the large ones contribute is not what is at risk
        rest = made(x).double() - x[:, [1, 20, 50]].double() @ exact[:, [1, 20, 50]].T.double()
        errors.append(relative_error(rest, ordinary @ exact.T))
    assert errors[1] < 0.35 * errors[0]


def test_inputs_that_never_occurred_are_multiplied_too():
    largest = torch.ones(96)
    largest[5] = 0
    made, _, exact, _ = quantised(largest, bias=False)
    x = torch.zeros(1, 96)
    x[0, 5] = 2.0
    assert relative_error(made(x), x @ exact.T) < 0.02


def test_a_row_does_not_depend_on_the_others():
    made, product, *_ = quantised()
    x, g = with_outliers(300, 96), torch.randn(300, 40)  # more than are multiplied at a time
    for i in (0, 1, 2, 254, 255, 256, 257, 299):
        assert torch.equal(made(x)[i], made(x[i : i + 1])[0])
        assert torch.equal(product.backward(g)[i], product.backward(g[i : i + 1])[0])


def test_gradients_have_sixteen_bits():
    _, product, _, stands_for = quantised()
    g = torch.randn(11, 40)
    g[:, 7] *= 300  # in 8 bits, little would be left of the others
    ordinary = g.clone()
    ordinary[:, 7] = 0
    found = product.backward(g).double() - g[:, 7:8].double() @ stands_for[7:8]
    assert relative_error(found, ordinary.double() @ stands_for) < 0.01
    assert_close(product.backward(g), g.double() @ stands_for, rtol=1e-4)


def test_gradients_flow_through_a_frozen_layer():
    made, _, _, stands_for = quantised()
    x = torch.randn(2, 3, 96, requires_grad=True)
    g = torch.randn(2, 3, 40)
    made(x).backward(g)
    assert_close(x.grad, g.double() @ stands_for, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 5),
    inputs=st.integers(2, 40),
    outputs=st.integers(1, 40),
    scale=st.sampled_from([1e-20, 1e-3, 1.0, 1e4]),
    empty=st.booleans(),
    seed=st.integers(0, 999),
)
def test_any_shape_and_scale_stays_finite_and_close(rows, inputs, outputs, scale, empty, seed):
    made, product, _, stands_for = quantised(inputs=inputs, outputs=outputs, bias=False, seed=seed)
    x = torch.randn(rows, inputs) * scale
    if empty:
        x[0] = 0
    y = made(x)
    exact = x.double() @ stands_for.T
    # Each input is rounded by half a step of 1/127 of the largest of its row.
    step = (x * product._columns).abs().amax(1, keepdim=True).double() / 127
    bound = step / 2 * (stands_for / product._columns).abs().sum(1) * (1 + 1e-3)
    assert torch.isfinite(y).all()
    assert ((y.double() - exact).abs() <= bound + 1e-5 * exact.abs() + 1e-30).all()


@pytest.mark.parametrize("wrong", ["saturating", "missing"])
def test_wrong_products_are_noticed(wrong, monkeypatch):
    def saturating(a, b):
        """As AVX2 does it: unsigned by signed bytes, whose pairs are added in 16 bits."""
        pairs = ((a.int() + 128)[:, None] * b.T.int()).unflatten(2, (-1, 2)).sum(3)
        return pairs.clamp(-(2**15), 2**15 - 1).sum(2) - 128 * b.int().sum(0)

    def missing(a, b):
        raise NotImplementedError("no kernel")

    monkeypatch.setattr(torch, "_int_mm", {"saturating": saturating, "missing": missing}[wrong])
    assert not eight_bits_work.__wrapped__()
