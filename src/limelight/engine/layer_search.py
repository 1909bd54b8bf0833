"""Layer search: which tensors of a pass are maps, and which of them a class activation map should read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..rules.names import AFFINE, AVERAGES, MAX_POOLS, PLAIN, words
from .feature_axes import Axes, FeatureAxes
from .flow import Flow
from .frames import Frames, InputAxes
from .graph import operators
from .layer_choice import Call, LayerMap, Returned, branches, class_scores_among, is_output, merges, reads_some
from .layer_maps import Grid, Known, grid_of, grid_of_frames
from .layers import Linear
from .occurrences import Occurrence, Path, default_path, elements, shapes_of
from .operator_calls import is_operator

OF_COLUMNS = (
    "columns have no positions that a layer's map could lie over: for the columns use a method of the inputs, such as "
    "IntegratedGradients, DeepLift or KernelShap; for a layer's units Conductance, InternalInfluence or AtLayer"
)
NOT_FRAMES = (
    "which are read where they are known to be neighbours, as after x.flatten(0, 1) of inputs (N, T, ...) with "
    "axes='NTCHW'"
)
_OTHER_WEIGHTS = words("lstm gru rnn_tanh rnn_relu bilinear conv_tbc _transformer_encoder_layer_fwd")
_MIX = AFFINE | _OTHER_WEIGHTS | AVERAGES - {"mean", "sum"} | MAX_POOLS
TOKEN_MAPS = 12  # maps compared with one whose positions may not reach the score, as behind a class token


@dataclass(frozen=True)
class Watched:
    """What a search found worth watching in the next pass of the same model on inputs of the same shape.

    `names`: the modules that return the chosen map, and the last linear layer. `layer`: the chosen map's name, "" where
    layers are named. `grids` of what these modules return. `operators` that led to the scores: with others the model
    took another path. `bytes`: the activations' memory for a row.
    """

    names: frozenset[str]
    layer: str
    grids: Mapping[tuple[str, int, Path], Grid | None]
    operators: Counter[str]
    bytes: int


@dataclass
class LayerSearch:
    """The findings of a watched forward pass on inputs `(rows, *features)`.

    `bytes` counts the activations' memory; `maps` are in order of use, `ranked` those to choose from, the best first;
    `runs` counts each module's calls; `linear` is the last linear layer with its input and output. `unreadable` says
    why the model's layers cannot be read, if so. `rows` are those of the pass, once it is over.
    """

    features: tuple[int, ...]
    bytes: int = 0
    maps: list[LayerMap] = field(default_factory=list)
    runs: Counter[str] = field(default_factory=Counter)
    linear: tuple[Linear, Tensor, Tensor] | None = None
    unreadable: str = ""
    rows: int = 0
    ranked: list[LayerMap] = field(default_factory=list)
    watching: Watched | None = None
    axes: FeatureAxes | None = None
    input_axes: InputAxes | None = None
    grids: dict[tuple[str, int, Path], Grid | None] = field(default_factory=dict)
    _shapes: dict[tuple[str, int], list[tuple[Path, tuple[int, ...], bool]]] = field(default_factory=dict)
    _by_id: dict[int, LayerMap] = field(default_factory=dict)
    _lengths: set[int] = field(default_factory=set)  # of the first axes
    joined: set[int] = field(default_factory=set)  # lengths of axes that joining tensors made
    _calls: list[Call] = field(default_factory=list)  # of modules that run now, the outermost first
    _operators: Counter[str] = field(default_factory=Counter)
    _known: list[Known] = field(default_factory=list)
    _known_of_frames: dict[int, list[Known]] = field(default_factory=dict)  # by the axis of the frames
    _frames: dict[tuple[str, int, Path], Frames] = field(default_factory=dict)
    _linear: str = ""  # the name of `linear`
    _mixed: bool = False  # whether anything that joins channels or positions ran

    @property
    def space(self) -> tuple[int, ...]:
        """The spatial size of the inputs."""
        return self.features[1:]

    def name(self, seen: LayerMap) -> str:
        """Return the outermost module that returned the map and ran once; else its occurrence, or the operator's."""
        once = [each for each in seen.returned if self.runs[each.name] == 1] or seen.returned
        if not once:
            return seen.operator
        # A tensor of its own before an element of something, the element that the name alone stands for before others.
        ranks = [(not each.path, self._path(each) is None, place) for place, each in enumerate(once)]
        best = once[max(ranks)[2]]
        return str(Occurrence(best.name, None if self.runs[best.name] == 1 else best.run, self._path(best)))

    def _path(self, returned: Returned) -> Path | None:
        """Return the path to write; None for the element that the layer's name alone stands for."""
        default = default_path(self._shapes[returned.name, returned.run], self.rows)
        return None if returned.path in ((), default) else returned.path

    def candidates(self) -> dict[str, LayerMap]:
        """Return the maps by the names of their layers, in order of use, without those inside a block."""
        outer = (seen for seen in self.maps if not seen.inner and seen.grid.positions > 1)
        return {self.name(seen): seen for seen in outer}

    def settle(self, outputs: Any, scores: Tensor, rows: int) -> Flow | None:
        """Leave out what no class activation map should read in a pass of `rows` rows: branches and class scores.

        An operator's map counts where it gathers a branch and what goes around it, or where no module returns a map.
        A branch is a map around which the score is reached too, where a later map of the same code gathers it, or where
        it lies inside of a module that takes a map and returns none, such as a head with attention. Returns the flow of
        the pass, where the scores have a graph.
        """
        self.rows, flow = rows, Flow.of(scores)
        alive = [each for each in self.maps if each.rows == rows and each.lies_on(flow)]
        by_modules = any(each.returned for each in alive if each.grid.positions > 1)
        gathering = merges(self.maps, flow) if flow is not None and by_modules else []
        for seen in self.maps if by_modules else ():
            if not seen.returned and seen not in gathering:
                self._leave_out(seen)
        usable = [each for each in alive if not each.inner and each.grid.positions > 1]
        if flow is None or self.watching is not None:
            return flow
        for seen in (*branches(self.maps, usable, flow), *class_scores_among(outputs, usable)):
            if usable != [seen]:
                usable = [each for each in usable if each is not seen]
                self._leave_out(seen)
        return flow

    def _leave_out(self, seen: LayerMap) -> None:
        if self._by_id.get(id(seen.output)) is seen:
            del self._by_id[id(seen.output)]
        seen.inner, seen.output = True, None

    def rank(self, outputs: Any, scores: Tensor, rows: int) -> dict[str, Tensor]:
        """Set `ranked` to the maps to choose from in a pass of `rows` rows, the best first; return their activations.

        The best is the last that the score depends on, except the model's own output, as in a segmentation. Where a
        map has prefix tokens, or positions are picked from its tokens, the score may depend on those alone, so earlier
        maps follow.
        """
        flow = self.settle(outputs, scores, rows)
        usable = [
            seen
            for name, seen in self.candidates().items()
            if seen.rows == rows
            and not seen.as_input
            and not is_output(seen, outputs)
            and seen.lies_on(flow)
            and (self.watching is None or name == self.watching.layer)
        ]
        if not usable:
            none = (
                "no module of the model returns a spatial map of more than one position for each row; "
                "pass layer= with a module's dotted name"
            )
            if not self.space:
                none = f"{OF_COLUMNS}, with layer= and a module's dotted name"
            frames = [each for each in self.features[:2] if each > 1 and each * rows in self._lengths]
            if frames:
                none += f"; others have {frames[0]} rows for each, as frames do that are folded into the rows, "
                none += NOT_FRAMES
            raise ValueError(f"layer: {self.unreadable or none}")
        last = usable[-1]
        compares = self.watching is None and last.grid.order.startswith("tokens") and reads_some(last, outputs, flow)
        self.ranked = usable[: -1 - TOKEN_MAPS if compares else -2 : -1]
        names = {self.name(seen) for seen in self.ranked}
        return {name: output for name, output in self.held().items() if name in names}

    def held(self) -> dict[str, Tensor]:
        """Return the candidates' activations by name, where they have a gradient and were not overwritten."""
        return {
            name: seen.output
            for name, seen in self.candidates().items()
            if seen.output is not None and seen.intact and seen.output.requires_grad
        }

    def held_of(
        self, rows: Callable[[], int], frames: dict[str, Frames | None], outputs: Any, scores: Tensor
    ) -> dict[str, Tensor]:
        """Settle the search, over a number of rows that is known once the pass is over; return what `held` does.

        Frames in the maps' rows are added to `frames`.
        """
        self.settle(outputs, scores, rows())
        frames.update(self.frames_of_maps())
        return self.held()

    def choose(self, gradients: Mapping[str, Tensor]) -> tuple[str, LayerMap, list[str], bool]:
        """Return the best of `ranked` by name and map, the names passed over, and whether all those had no gradient.

        The best has a gradient at more than one position; else at one, else it is the earliest. A map without an entry
        in `gradients` counts as having one.
        """

        def positions(seen: LayerMap) -> int:
            slope = gradients.get(self.name(seen))
            if slope is None or len(self.ranked) == 1:
                return seen.grid.positions
            return int((seen.grid.maps(slope) != 0).any(1).flatten(1).sum(1).max())

        reached = [positions(seen) for seen in self.ranked]
        least = next((each for each in (2, 1) if max(reached) >= each), 0)
        best = next(place for place, each in enumerate(reached) if each >= least) if least else len(reached) - 1
        chosen, passed_over = self.ranked[best], [self.name(seen) for seen in self.ranked[:best]]
        return self.name(chosen), chosen, passed_over, not any(reached[:best])

    def grid(self, name: str, shape: tuple[int, ...]) -> Grid | None:
        """Return the grid in what an occurrence of that name returned, of this shape (without the rows)."""
        key = self._key(name)
        return self.grids[key] if key in self.grids else grid_of(shape, self.space, self._known)

    def _key(self, name: str) -> tuple[str, int, Path]:
        read = Occurrence.read(name)
        assert read is not None
        run = read.run or 0
        path = default_path(self._shapes.get((read.of, run), ()), self.rows) if read.path is None else read.path
        return read.of, run, path or ()

    def frames(self, name: str) -> Frames | None:
        """Return the frames in the rows of what an occurrence of that name returned; None where it has none there."""
        return self._frames.get(self._key(name))

    def frames_of_maps(self) -> dict[str, Frames]:
        """Return the frames in the rows of the candidates that have some, by name."""
        return {name: each.grid.frames for name, each in self.candidates().items() if each.grid.frames is not None}

    def led_by(self, scores: Tensor) -> None:
        """Remember the operators that led to the scores."""
        self._operators = operators(scores)

    def is_like(self, watched: Watched) -> bool:
        """Whether the scores were computed by the operators of the pass that was searched."""
        return self._operators == watched.operators

    def watched(self, rows: int) -> Watched | None:
        """Return what a later search can do with after this one over `rows` rows; None where it needs it all."""
        if len(self.ranked) != 1 or not self.ranked[0].returned or (self.linear and not self._linear):
            return None
        return self._watched([each.name for each in self.ranked[0].returned], self.name(self.ranked[0]), rows)

    def watched_for(self, names: Iterable[str], rows: int) -> Watched | None:
        """Return what a later search for these named layers can do with; None where one returned no map."""
        read = [Occurrence.read(name) for name in names]
        modules = [each.of for each in read if each is not None]
        known = {of for of, _, _ in self.grids}
        return self._watched(modules, "", rows) if all(of in known and self.runs[of] for of in modules) else None

    def _watched(self, names: list[str], layer: str, rows: int) -> Watched:
        grids = {key: grid for key, grid in self.grids.items() if key[0] in names}
        return Watched(frozenset((*names, self._linear)) - {""}, layer, grids, self._operators, self.bytes // rows)

    def found_linear(self, name: str, linear: Linear, rows: Tensor, output: Tensor) -> None:
        """Record a linear layer over rows `(rows, features)`, of the module of that name or, with "", an operator."""
        self.linear, self._linear = (linear, rows.detach(), output.detach()), name

    def enter(self, name: str) -> None:
        """Note that the module of that name is called."""
        self._calls.append(Call(name, len(self.maps)))

    def see(self, name: str, child: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        """Record the output of the module of that name."""
        run = self.runs[name]
        self.runs[name] += 1
        self._shapes[name, run] = shapes_of(output)
        call = self._calls.pop() if self._calls else None
        pools = "Pool" in type(child).__name__  # CAMs read the map before it is pooled
        # A program's operators are not seen.
        self._mixed |= isinstance(child, torch.jit.ScriptModule) and next(child.parameters(), None) is not None
        if self.axes is not None and isinstance(child, nn.modules.conv._ConvNd) and isinstance(output, Tensor):
            self.axes.set(output, Axes(0, 1))  # also where an operator of ours computed it
        found, has_new = [], False
        for path, tensor in elements(output):
            self._note_frames((name, run, path), tensor)
            if tensor.ndim < 3 or not tensor.is_floating_point() or tensor.layout != torch.strided:
                continue
            self._lengths.add(len(tensor))
            grid = self._grid((name, run, path), tensor)
            if grid is None:
                continue
            returned = Returned(name, run, path, bool(child._modules))
            known = self._by_id.get(id(tensor))
            if known is not None and known.output is tensor and known is self.maps[-1] and not known.intact:
                # Rewritten in place: from now on the map is this module's.
                known.returned, known.operator = [returned], ""
                known.version, known.node = tensor._version, tensor.grad_fn
            elif known is not None and known.output is tensor and known.intact:
                has_new |= not known.returned
                # An outer module that returns the same map names it, one that hands on its argument does not.
                if not known.returned or not any(tensor is each for each in args):
                    known.returned.append(returned)
            elif pools or (self._is_view(tensor) and self.maps[-1].returned):
                continue
            else:
                known, has_new = self._add([returned], "", grid, tensor), True
            found.append(known)
        if call is None:
            return
        call.returned = any(each.grid.positions > 1 for each in found)
        if has_new and call.returned:
            for seen in self.maps[call.before :]:
                if seen not in found:
                    self._leave_out(seen)

    def made(self, name: str) -> None:
        """Note that an operator ran, also inside of torch's own layers; one that is not known may join anything."""
        self._mixed |= name in _MIX or not is_operator(name)

    def called(self, name: str, run: int, output: Any, in_place: bool) -> None:
        """Record the output of an operator outside of torch's own layers."""
        self._note_frames((name, run, ()), output)
        if not isinstance(output, Tensor) or output.ndim < 3 or not output.is_floating_point():
            return
        if output.layout != torch.strided or (name in PLAIN and name != "cat") or "pool" in name:
            return
        known = self._by_id.get(id(output))
        is_same = known is not None and known.output is output and known.intact
        grid = None if is_same else self._grid((name, run, ()), output)
        if grid is not None and (in_place or not self._is_view(output)):
            self._add([], f"{name}#{run}", grid, output)

    def _is_view(self, tensor: Tensor) -> bool:
        """Whether a tensor holds the numbers of the last map in another shape."""
        last = self.maps[-1].output if self.maps else None
        return last is not None and tensor.untyped_storage().data_ptr() == last.untyped_storage().data_ptr()

    def _note_frames(self, key: tuple[str, int, Path], tensor: Any) -> None:
        if self.input_axes is not None and isinstance(tensor, Tensor) and tensor.ndim > 1:
            folded = self.input_axes.folded(tensor)
            if folded is not None:
                self._frames[key] = Frames(folded[1])

    def _grid(self, key: tuple[str, int, Path], tensor: Tensor) -> Grid | None:
        shape = tuple(tensor.shape[1:])
        if self.watching is not None:
            self.grids[key] = self.watching.grids.get(key)
            return self.grids[key]
        axes = self.axes.of(tensor) if self.axes is not None else None
        channels = None if axes is None else axes.channels - 1
        folded = self.input_axes.folded(tensor) if self.input_axes is not None else None
        if axes is not None and not (axes.rows == 0 and axes.channels > 0):
            self.grids[key] = None
        elif folded is None:
            self.grids[key] = grid_of(shape, self.space, self._known, channels)
        else:
            known = self._known_of_frames.setdefault(folded[0], [])
            self._frames[key], self.grids[key] = grid_of_frames(shape, self.space, known, channels, folded)
            grid = self.grids[key]
            if grid is not None:
                width = grid.maps(grid.unfolded(tensor)).shape[1]
                known.append((width, grid.space[: folded[0]] + grid.space[folded[0] + 1 :]))
        grid = self.grids[key]
        if grid is not None and grid.prefix and self.axes is not None and shape[0] not in self.joined:
            self.grids[key] = None  # a detector's queries: no token was put in front of a map's
        return self.grids[key]

    def _add(self, returned: list[Returned], operator: str, grid: Grid, tensor: Tensor) -> LayerMap:
        if self.maps and not torch.is_grad_enabled():
            self.maps[-1].output = None  # without grad mode its gradient cannot be requested
        read = grid.unfolded(tensor)
        channels, rows, inside = grid.maps(read).shape[1], len(read), tuple(self._calls)
        seen = LayerMap(returned, operator, grid, channels, tensor, tensor._version, tensor.grad_fn, rows, inside)
        seen.as_input = not self._mixed and self.watching is None and (channels, *grid.space) == self.features
        self.maps.append(seen)
        self._by_id[id(tensor)] = seen
        if grid.positions > 1:
            self._known.append((channels, grid.space))
        return seen

    def release(self) -> None:
        """Release all tensors."""
        for seen in self.maps:
            seen.output = seen.node = None
        self._by_id.clear()
        self.linear = self.axes = self.input_axes = None
