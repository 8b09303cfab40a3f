"""One layer of a network, against torch's own operations, with and without the fused kernel."""

import ctypes
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from thetaprime.models import kernels as layers
from thetaprime.models.kernels import Activation, activation_backward, layer, rows_of_kernels

PLAIN: dict[Activation, Callable[[torch.Tensor], torch.Tensor]] = {
    "none": torch.clone,
    "relu": torch.relu,
    "tanh": torch.tanh,
}
each_activation = pytest.mark.parametrize("activation", PLAIN)
each_size = pytest.mark.parametrize(("rows", "inputs", "outputs"), [(5, 3, 4), (64, 17, 30), (200, 30, 6), (96, 1, 1)])


@pytest.fixture(params=["fused", "plain"])
def kernels(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without oneDNN's kernels."""
    if request.param == "plain":
        monkeypatch.setattr(layers, "_FUSED", None)
    elif layers._FUSED is None:
        pytest.skip("torch has no oneDNN here")


def _plain(inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, activation: Activation) -> torch.Tensor:
    return PLAIN[activation](inputs @ weight.T + bias)


def _operands(rows: int, inputs: int, outputs: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).requires_grad_()

    return drawn(rows, inputs), drawn(outputs, inputs), drawn(outputs)


@pytest.mark.usefixtures("kernels")
@each_activation
@each_size
def test_a_layer_equals_torchs(rows: int, inputs: int, outputs: int, activation: Activation) -> None:
    operands = _operands(rows, inputs, outputs)
    found, expected = layer(*operands, activation), _plain(*operands, activation)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    cotangent = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        torch.autograd.grad(found, operands, cotangent),
        torch.autograd.grad(expected, operands, cotangent),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.usefixtures("kernels")
@each_activation
@each_size
def test_the_second_derivative_equals_torchs(rows: int, inputs: int, outputs: int, activation: Activation) -> None:
    operands = _operands(rows, inputs, outputs)

    def second(function: Callable[..., torch.Tensor]) -> tuple[torch.Tensor, ...]:
        first = torch.autograd.grad(function(*operands, activation).sin().sum(), operands, create_graph=True)
        return torch.autograd.grad(torch.stack([each.square().sum() for each in first]).sum(), operands)

    torch.testing.assert_close(second(layer), second(_plain), rtol=1e-3, atol=1e-3)


@each_activation
def test_an_activation_s_gradient_equals_torchs(activation: Activation) -> None:
    sums = torch.linspace(-2, 2, 20).requires_grad_()
    outputs = PLAIN[activation](sums)
    gradient = torch.linspace(1, 3, 20)
    (expected,) = torch.autograd.grad(outputs, sums, gradient)
    torch.testing.assert_close(activation_backward(gradient, outputs.detach(), activation), expected)


def test_float64_stays_float64() -> None:
    inputs, weight, bias = _operands(100, 3, 4)
    assert layer(inputs.double(), weight.double(), bias.double(), "tanh").dtype == torch.float64


def test_each_task_has_its_parameters() -> None:
    one = _operands(80, 3, 4)
    inputs, weight, bias = (torch.stack([value, -value]) for value in one)
    expected = torch.stack([layer(inputs[task], weight[task], bias[task], "relu") for task in range(2)])
    torch.testing.assert_close(layer(inputs, weight, bias, "relu"), expected)


@hypothesis.given(st.integers(1, 1_000_000))
def test_a_batch_is_padded_by_at_most_an_eighth(rows: int) -> None:
    filled = rows_of_kernels(rows)
    assert rows <= filled <= rows * 9 / 8
    assert rows_of_kernels(filled) == filled


@pytest.mark.skipif(layers._FUSED is None, reason="torch has no oneDNN here")
def test_there_are_few_sizes_of_batches() -> None:
    """Each costs the compilation of its kernels."""
    assert len({rows_of_kernels(rows) for rows in range(64, 65_536)}) <= 8 * 10 + 1


@pytest.mark.usefixtures("kernels")
def test_a_row_does_not_depend_on_the_others() -> None:
    """Padding, or leaving a trajectory out, changes no other row."""
    inputs, weight, bias = _operands(128, 17, 30)
    whole = layer(inputs, weight, bias, "relu")
    torch.testing.assert_close(layer(inputs[:100], weight, bias, "relu"), whole[:100])


@pytest.mark.skipif(layers._FUSED is None, reason="torch has no oneDNN here")
def test_a_thread_uses_the_process_s_number_of_threads() -> None:
    """OpenMP has a thread count for each thread; a thread that asks torch for nothing else would use all processors."""
    maps = Path("/proc/self/maps")
    libraries = (
        {line.split()[-1] for line in maps.read_text().splitlines() if "omp" in line} if maps.exists() else set()
    )
    if len(libraries) != 1:
        pytest.skip("cannot tell which OpenMP torch uses here")
    openmp = ctypes.CDLL(libraries.pop())
    before = torch.get_num_threads()

    def run() -> int:
        inputs, weight, bias = _operands(64, 3, 4)
        layer(inputs, weight, bias, "tanh")
        return int(openmp.omp_get_max_threads())

    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            with ThreadPoolExecutor(1) as thread:
                assert thread.submit(run).result() == threads
    finally:
        torch.set_num_threads(before)
