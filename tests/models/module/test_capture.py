"""A module becomes a program, or is refused by name."""

import re

import pytest
import torch
from torch import nn

from tests.support.models import modules
from thetaprime.models.module.capture import capture_module
from thetaprime.models.module.graph_writer import ModuleError
from thetaprime.models.module.program import Program


@pytest.mark.parametrize(
    ("module", "shape", "context_size"),
    [
        (modules.Mlp((6,), 2), (6,), 0),
        (modules.Film((6,), 2, 3), (6,), 3),
        (modules.Picture((16, 16, 3), 2), (16, 16, 3), 0),
        (modules.Objects((5, 4), 2), (5, 4), 0),
        (modules.Token((5, 4), 2), (5, 4), 0),
    ],
    ids=["mlp", "film", "picture", "objects", "token"],
)
def test_a_program_computes_what_its_module_computes(
    module: nn.Module, shape: tuple[int, ...], context_size: int
) -> None:
    program = Program.from_bytes(capture_module(module, shape, 2, context_size).to_bytes())
    assert program.parameters == {name: tuple(each.shape) for name, each in module.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    parameters = {
        name: (each + 0.1 * torch.randn(each.shape, generator=generator)).detach()
        for name, each in module.named_parameters()
    }
    arguments = [torch.randn(70, *shape, generator=generator)]
    if context_size:
        arguments.append(torch.randn(70, context_size, generator=generator))
    expected = torch.func.functional_call(module, parameters, tuple(arguments))
    for kernels in (True, False):
        found = program.run(parameters, *arguments, kernels=kernels)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


_REFUSED = {
    "batch norm": (
        modules.WithLayer(nn.BatchNorm1d(2)),
        "layer more.0 (BatchNorm1d) keeps running statistics.*LayerNo",
    ),
    "dropout": (modules.WithLayer(nn.Dropout(0.1)), "layer more.0 (Dropout) draws noise"),
    "recurrent": (modules.WithLayer(nn.GRU(2, 2)), "layer more.0 (GRU) is recurrent"),
    "state": (modules.Remembering(), "keeps state between calls"),
    "state from the third call on": (modules.Counting(), "keeps state between calls"),
    "buffer": (modules.Counter(), "buffer calls changes when the module is called"),
    "parameters": (modules.Decaying(), "parameter linear.weight changes when the module is called"),
    "no gradient": (modules.Frozen(), "without gradients (torch.no_grad)"),
    "detached": (modules.Detached(), "uses aten.detach.default.*modules.py, line"),
    "branch": (modules.Branching(), "branches on the numbers.*modules.py, line .*if result.sum() > 0:"),
    "rows": (modules.Centered(), "combines observations with each other"),
    "operation": (modules.Sorting(), "uses aten.sort.default.*modules.py, line"),
    "infinite": (modules.Dividing(), "not finite"),
    "idle": (modules.Idle(), "parameter spare has no effect"),
    "shape": (
        modules.Linear((3,), 4),
        r"returns torch.float32 [5, 4] for 5 observations; expected torch.float32 [5, 2]",
    ),
    "input": (modules.Linear((9,), 2), "fails for inputs of shape [5, 3]: RuntimeError"),
    "one batch": (modules.OneBatch(), "works for one number of observations only"),
    "nothing": (nn.Flatten(), "Flatten has no parameters"),
}


@pytest.mark.parametrize(("module", "message"), _REFUSED.values(), ids=_REFUSED)
def test_a_module_that_cannot_adapt_is_refused_by_name(module: nn.Module, message: str) -> None:
    pattern = ".*".join(map(re.escape, message.split(".*")))
    with pytest.raises(ModuleError, match=pattern):
        capture_module(module, (3,), 2)
