"""The reference run: its operands are recorded, and read back in the same order while the input runs."""

from dataclasses import dataclass, field

from torch import Tensor

from .audit import source_line
from .call import Call


class OtherPath(RuntimeError):
    """The reference took another path through the model's code than the input, so the two cannot be compared."""


@dataclass(frozen=True, eq=False)
class Record:
    """One operator of the reference run."""

    name: str
    operands: tuple[Tensor, ...]


@dataclass
class Tape:
    """Records operators, or, while `replaying`, returns the records one by one and checks the operators' names."""

    records: list[Record] = field(default_factory=list)
    replaying: bool = False
    position: int = 0

    def step(self, call: Call) -> Record:
        """Record this call's operands, or return the reference's record at this place."""
        if not self.replaying:
            # Clones: the model may overwrite an operand in place later.
            self.records.append(Record(call.name, tuple(operand.detach().clone() for operand in call.operands)))
            return self.records[-1]
        here = f"operator {self.position + 1} of the input's run is {call.name} ({source_line()})"
        if self.position >= len(self.records):
            raise OtherPath(f"{here}; the reference's run ended before it")
        record = self.records[self.position]
        if record.name != call.name:
            raise OtherPath(f"{here}; in the reference's run it was {record.name}")
        for mine, theirs in zip(call.operands, record.operands, strict=True):
            if theirs.ndim != mine.ndim or any(b not in (1, a) for a, b in zip(mine.shape, theirs.shape, strict=True)):
                raise OtherPath(f"{here} on {tuple(mine.shape)}; in the reference's run on {tuple(theirs.shape)}")
        self.position += 1
        return record

    def rewind(self) -> None:
        """Go back to the start, to replay."""
        self.replaying, self.position = True, 0

    def finish(self) -> None:
        """Check that the input's run used every record."""
        if self.replaying and self.position != len(self.records):
            name = self.records[self.position].name
            raise OtherPath(f"the input's run ended after {self.position} operators; the reference's went on to {name}")
