"""What a pass by rules held is released with it: a rule that captures what it made closes a circle in autograd."""

import gc

import pytest
import torch
from torch import Tensor, nn

import limelight as ll
from limelight.methods import METHODS
from limelight.methods.backward import Backward, PatternMethod
from limelight.rules.engine import Propagate

RULES = [kind for kind in METHODS if issubclass(kind, Backward) and not issubclass(kind, PatternMethod)]
FURTHER = [ll.LRP("epsilon-plus-flat"), ll.LRP("epsilon-gamma-box"), ll.ExcitationBackprop(contrastive=True)]


class InPlace(nn.Module):
    """Operators that write into their operands, as most published networks have, after the input's normalisation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.SiLU(inplace=True), nn.MaxPool2d(2))
        self.body, self.act, self.head = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(inplace=True), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem((x - 0.4) / 0.25)
        z = self.act(self.body(y)) + y
        z *= torch.sigmoid(y.mean((2, 3), keepdim=True))
        z += y
        z.clamp_(max=4)
        return self.head(z.mean((2, 3)))  # type: ignore[no-any-return]


def _alive() -> set[int]:
    gc.collect()
    return {id(each) for each in gc.get_objects() if isinstance(each, Propagate)}


@pytest.mark.parametrize("method", [*(kind() for kind in RULES), *FURTHER], ids=repr)
def test_nothing_of_a_pass_stays(method: Backward) -> None:
    before = _alive()  # of other tests
    net, x = InPlace().double().eval(), torch.rand(2, 3, 12, 12, dtype=torch.float64)
    ll.explain(net, x, method, target=1, baseline=0.3, layer="stem" if method.needs.layer else None)
    assert not _alive() - before
