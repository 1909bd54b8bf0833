r"""LSTM, GRU and plain recurrent layers, run as the linear layers, products and sums that they consist of.

Every step is that of the cell, so that a layer gets what its cell written out by hand gets. With $z = W_{ih} x_t +
b_{ih} + W_{hh} h_{t-1} + b_{hh}$ (for GRU its thirds, $n$ with $r$ on the state's part alone):

$$\text{LSTM: } c_t = \sigma(z_f)\,c_{t-1} + \sigma(z_i) \tanh(z_g),\quad h_t = \sigma(z_o) \tanh(c_t)$$
$$\text{GRU: } h_t = (1 - \sigma(z_z))\,n_t + \sigma(z_z)\,h_{t-1},\quad n_t = \tanh(x_n + \sigma(z_r)\,h_n)$$
$$\text{RNN: } h_t = \tanh(z) \text{ or } \mathrm{relu}(z)$$
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

State = tuple[Tensor, ...]
Cell = Callable[..., State]


def lstm_cell(x: Tensor, hx: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> State:
    return _lstm(x, tuple(hx), w_ih, w_hh, b_ih, b_hh)


def _lstm(
    x: Tensor, hx: State, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None, w_hr: Any = None
) -> State:
    h, c = hx
    gates = F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh)
    i, f, g, o = gates.chunk(4, -1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    h = torch.sigmoid(o) * torch.tanh(c)
    return h if w_hr is None else F.linear(h, w_hr), c


def gru_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    x_r, x_z, x_n = F.linear(x, w_ih, b_ih).chunk(3, -1)
    h_r, h_z, h_n = F.linear(h, w_hh, b_hh).chunk(3, -1)
    r, z = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    n = torch.tanh(x_n + r * h_n)
    return (1 - z) * n + z * h


def rnn_tanh_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    return torch.tanh(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


def rnn_relu_cell(x: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Tensor:
    return torch.relu(F.linear(x, w_ih, b_ih) + F.linear(h, w_hh, b_hh))


def _single(cell: Callable[..., Tensor]) -> Cell:
    return lambda x, hx, *weights: (cell(x, *hx, *weights),)


LAYERS: dict[str, Cell] = {
    "lstm": _lstm,
    "gru": _single(gru_cell),
    "rnn_tanh": _single(rnn_tanh_cell),
    "rnn_relu": _single(rnn_relu_cell),
}


def opens(args: Sequence[Any]) -> bool:
    """Whether a call of a recurrent layer can be taken apart: not where it drops out at random, nor of packed rows."""
    if len(args) != 9 or not isinstance(args[3], bool):  # packed rows come with their batch sizes
        return False
    layers, dropout, training = args[4], args[5], args[6]
    return not (training and dropout and layers > 1)


def layer(name: str) -> Callable[..., Any]:
    """Return the body of `torch.lstm`, `torch.gru`, `torch.rnn_tanh` or `torch.rnn_relu`."""

    def body(
        x: Tensor,
        hx: Any,
        weights: Sequence[Tensor],
        biases: bool,
        layers: int,
        dropout: float,
        training: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, ...]:
        states: State = tuple(hx) if name == "lstm" else (hx,)
        directions = 2 if bidirectional else 1
        each = len(weights) // (layers * directions)
        steps = x.unbind(1 if batch_first else 0)
        last: list[State] = []
        for depth in range(layers):
            outputs = []
            for direction in range(directions):
                place = depth * directions + direction
                own: list[Any] = list(weights[place * each : (place + 1) * each])
                if not biases:  # w_ih, w_hh and perhaps the LSTM's projection w_hr
                    own[2:2] = [None, None]
                found, final = _run(LAYERS[name], steps, tuple(s[place] for s in states), own, backwards=direction == 1)
                outputs.append(found)
                last.append(final)
            steps = outputs[0] if directions == 1 else tuple(torch.cat(pair, -1) for pair in zip(*outputs, strict=True))
        return torch.stack(steps, 1 if batch_first else 0), *(torch.stack(part) for part in zip(*last, strict=True))

    return body


def _run(
    cell: Cell, steps: Sequence[Tensor], state: State, weights: Sequence[Any], backwards: bool
) -> tuple[tuple[Tensor, ...], State]:
    """Run a cell over the steps; return its outputs in their order, and its last state."""
    outputs = []
    for x in reversed(steps) if backwards else steps:
        state = cell(x, state, *weights)
        outputs.append(state[0])
    return tuple(reversed(outputs) if backwards else outputs), state


RECURRENT: dict[str, Callable[..., Any]] = {
    **{name: layer(name) for name in LAYERS},
    "lstm_cell": lstm_cell,
    "gru_cell": gru_cell,
    "rnn_tanh_cell": rnn_tanh_cell,
    "rnn_relu_cell": rnn_relu_cell,
}
