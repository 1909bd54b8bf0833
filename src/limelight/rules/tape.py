"""The reference run's operators, recorded to be compared with the input's."""

from dataclasses import dataclass, field

from torch import Tensor

from .audit import source_line
from .call import Call


class OtherPath(RuntimeError):
    """The reference took another path through the model's code than the input, so the two cannot be compared."""


@dataclass
class Tape:
    """The operators of the reference run, by name and operands; while `replaying`, they are read in order."""

    records: list[tuple[str, tuple[Tensor, ...]]] = field(default_factory=list)
    replaying: bool = False
    position: int = 0

    def step(self, call: Call, operands: tuple[Tensor, ...] | None = None) -> tuple[Tensor, ...]:
        """Record and return this call's operands (or others), or return the reference's at this place."""
        mine = call.operands if operands is None else operands
        if not self.replaying:
            # Clones: the model may overwrite an operand in place later.
            self.records.append((call.name, tuple(operand.detach().clone() for operand in mine)))
            return self.records[-1][1]
        here = f"operator {self.position + 1} of the input's run is {call.name} ({source_line()})"
        if self.position >= len(self.records):
            raise OtherPath(f"{here}; the reference's run ended before it")
        name, theirs = self.records[self.position]
        if name != call.name:
            raise OtherPath(f"{here}; in the reference's run it was {name}")
        for one, two in zip(mine, theirs, strict=True):
            if two.ndim != one.ndim or any(b not in (1, a) for a, b in zip(one.shape, two.shape, strict=True)):
                raise OtherPath(f"{here} on {tuple(one.shape)}; in the reference's run on {tuple(two.shape)}")
        self.position += 1
        return theirs

    def finish(self) -> None:
        """Check that the input's run used every record."""
        if self.replaying and self.position != len(self.records):
            name = self.records[self.position][0]
            raise OtherPath(f"the input's run ended after {self.position} operators; the reference's went on to {name}")
