"""URLs of object stores as paths."""

from __future__ import annotations

from pathlib import PurePosixPath


class Url(PurePosixPath):
    """A URL such as `s3://bucket/run`. It joins and compares as paths do, and its text keeps both slashes."""

    def __str__(self) -> str:
        text = super().__str__()
        return text.replace(":/", "://", 1) if self.parts and self.parts[0].endswith(":") else text
