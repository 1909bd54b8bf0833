"""Finding operators that no rule covered: a plain gradient must never be reported as another method's result."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.modules._functions import BackwardHookFunction

from .names import words

_PACKAGE, _TORCH = str(Path(__file__).parents[1]), str(Path(torch.__file__).parent)
_RULES, _QUESTION = str(Path(__file__).parent), str(Path(__file__).parents[1] / "question")


class UncoveredOperator(RuntimeError):
    """The model uses a nonlinear operator for which the method has no rule.

    `operator` is its name, `where` the line of the model that called it.
    """

    def __init__(self, method: str, operator: str, where: str, reason: str = "") -> None:
        self.operator, self.where = operator, where
        if where.startswith(_QUESTION):
            advice = "it belongs to the target: explain another number, such as the logit of a class (target=Logit(c))"
        elif where.startswith(_PACKAGE):
            advice = "it is called in limelight itself: use a method that takes gradients, such as IntegratedGradients"
        elif ".py:" in where:
            advice = "write that line with operators of docs/rules.md"
        else:
            advice = "call it as a Python operator of docs/rules.md"
        super().__init__(
            f"{method} has no rule for {operator} ({where}){reason and ': ' + reason}. Its plain gradient would not be "
            f"{method}; {advice}, or pass on_uncovered='gradient' to use the gradient there and have it noted"
        )


def source_line() -> str:
    """Return the innermost frame outside torch and the rules: the line of the model or the target that is running."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_RULES, _TORCH)):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}, in {frame.f_code.co_name}"


_STRUCTURAL = words("""
    View UnsafeView Reshape ReshapeAlias Alias AsStrided Permute Transpose T Squeeze Unsqueeze Expand Repeat Clone
    Copy CopyBackwards CopySlices Slice Select Narrow Index IndexSelect Gather Split SplitWithSizes SafeSplit
    UnsafeSplit Chunk Unbind Cat Stack Flip Roll Rot90 ConstantPadNd ReflectionPad1D ReflectionPad2D ReflectionPad3D
    ReplicationPad1D ReplicationPad2D ReplicationPad3D PixelShuffle PixelUnshuffle Unfold Im2Col Col2Im ToCopy Neg
    Sum Mean Add Sub Rsub AvgPool2D AvgPool3D AdaptiveAvgPool2D AdaptiveAvgPool3D MkldnnAdaptiveAvgPool2D
    AccumulateGrad Diagonal Tril Triu MaskedFill SliceScatter SelectScatter IndexPut IndexAdd ScatterAdd Scatter
    Embedding NativeBatchNorm CudnnBatchNorm MiopenBatchNorm Cumsum RepeatInterleave TakeAlongDim Lift
    NativeChannelShuffle ChannelShuffle Real Imag Complex Conj ConjPhysical ResolveConj ResolveNeg ViewAsReal
    ViewAsComplex FftR2C FftC2R FftC2C Diag DiagEmbed
""")
_LINEAR = words("Convolution MkldnnConvolution ThnnConv2D Linear Addmm Baddbmm Addbmm")
_BILINEAR = words("Mm Bmm Mv Dot Addmv Addr GridSampler2D GridSampler3D Bilinear")


def is_safe(node: Any, linear_nodes: bool) -> bool:
    """Whether this node's derivative is correct under every rule: it is linear in what varies, at all values.

    Under `linear_nodes=False` a matrix product or convolution needs a rule too (LRP's linear rules).
    """
    function = getattr(type(node), "_forward_cls", None)
    if function is not None:
        if getattr(function, "is_linear", False):  # a convolution with packed weights
            return linear_nodes
        return function is BackwardHookFunction or function.__module__ == f"{__package__}.ruled"
    name = re.sub(r"Backward\d*$", "", node.name().removeprefix("torch::autograd::")).lstrip("_")
    if name in _STRUCTURAL or name.startswith("Upsample"):
        return True
    if name == "Div":  # linear in the numerator
        return node.next_functions[1][0] is None if len(node.next_functions) > 1 else True
    varying = sum(parent is not None for parent, _ in node.next_functions)
    if name == "Mul":
        return varying < 2
    if name.startswith("GridSampler") and node.next_functions[1][0] is not None:
        return False  # bilinear in the picture, not in the places where it is read
    if name in _LINEAR or name in _BILINEAR:
        return linear_nodes and varying < 2
    return False


def graph(outputs: Iterable[Tensor], stop: Iterable[Any] = ()) -> Iterator[Any]:
    """Yield the autograd nodes that lead to these tensors, each once, not going past `stop`."""
    seen, todo = set(stop), [t.grad_fn for t in outputs]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        todo.extend(parent for parent, _ in node.next_functions)


def tensors(value: Any) -> list[Tensor]:
    """Return the tensors in an operator's arguments or results."""
    found: list[Tensor] = []
    _collect((value,), found)
    return found


def _collect(values: Iterable[Any], found: list[Tensor]) -> None:
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (tuple, list)):
            _collect(value, found)
        elif isinstance(value, dict):
            _collect(value.values(), found)
