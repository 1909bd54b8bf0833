"""What a page asks its server, whatever it explains: questions, whose answers are events, and tests of maps."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from fastapi import HTTPException
from fastapi.responses import Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .jobs import Full, Job, Queue
from .work import Kept, Store

Asked = TypeVar("Asked", bound=BaseModel)
JSON_BYTES = 65536


class PageTests(BaseModel):
    """The names of a map to test again, and of the maps of its row."""

    model_config = ConfigDict(extra="forbid", strict=True)
    map: Annotated[str, Field(max_length=40)]
    row: Annotated[list[Annotated[str, Field(max_length=40)]], Field(max_length=16)]


class Page(ABC):
    """What a page asks a model: its form, and the work behind its questions. Maps in memory, and the queue."""

    asked: ClassVar[type[BaseModel]]  # what a question is sent as
    maps: Store[Kept]
    queue: Queue

    @abstractmethod
    def form(self) -> dict[str, Any]:
        """Return the contents of the form."""

    @abstractmethod
    def work(self, body: bytes) -> Callable[[Job], None]:
        """Read a question, and return what answers it. Raises Refused or HTTPException."""

    @abstractmethod
    def tested(self, asked: PageTests) -> Callable[[Job], None]:
        """Return what tests a map again."""

    def close(self) -> None:
        """Stop all work, and wait until it has stopped."""
        self.queue.close()

    def stream(self, work: Callable[[Job], None]) -> Response:
        """Queue work, and answer with its events. Raises HTTPException 429 if the queue is full."""
        try:
            job, before = self.queue.start(work)
        except Full as error:
            raise busy() from error
        return StreamingResponse(_events(job, before), media_type="text/event-stream")


def parsed(kind: type[Asked], body: bytes) -> Asked:
    """Read a JSON body. Raises HTTPException that names the entry which is wrong."""
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        first = error.errors()[0]
        raise HTTPException(422, f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def busy() -> HTTPException:
    """Return the refusal of a server whose places are taken."""
    return HTTPException(429, "the server is busy; try again in a moment", headers={"retry-after": "1"})


async def _events(job: Job, before: int) -> AsyncIterator[bytes]:
    """Yield the job's events. When the client hangs up, this is closed and the job stops."""
    try:
        yield _event("queued", {"before": before})
        while True:
            try:
                event = await asyncio.wait_for(job.events.get(), timeout=1)
            except TimeoutError:
                if said := job.overdue:
                    yield _event("stopped", {"message": said})
                    return
                yield b": waiting\n\n"  # fails if the client has hung up
                continue
            if event is None:
                return
            yield _event(*event)
    finally:
        job.cancel()


def _event(name: Literal["queued", "stopped"] | str, data: Mapping[str, Any]) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data, allow_nan=False)}\n\n".encode()
