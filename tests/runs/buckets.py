"""An object store on this machine for runs whose output is a bucket, and their files as bytes."""

from __future__ import annotations

import itertools
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

import limelight as ll
from limelight.runs.storage import Storage, as_place, storage_at

_numbers = itertools.count()


@contextmanager
def serving(*buckets: str) -> Iterator[str]:
    """Serve an object store on loopback, which this process and those it starts use; give the URL of its
    first bucket. `buckets`: their names in place of one, `bucket`.
    """
    pytest.importorskip("s3fs", reason="buckets of s3 need the extra 'cloud'")
    server_of = pytest.importorskip("moto.server", reason="the object store of the tests is moto").ThreadedMotoServer
    names = buckets or ("bucket",)
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = server_of("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            patch.setenv(name, value)
        import s3fs

        s3fs.S3FileSystem.clear_instance_cache()
        system = s3fs.S3FileSystem(use_listings_cache=False)
        for name in names:
            if not system.exists(name):  # what is in a store belongs to the process, and outlives a server
                system.mkdir(name)
        try:
            yield f"s3://{names[0]}"
        finally:
            s3fs.S3FileSystem.clear_instance_cache()
            server.stop()


def new_place(root: str) -> str:
    """A place below `root` that no other test of this process has."""
    return f"{root}/run{os.getpid()}-{next(_numbers)}"


def stored(out: str) -> Storage:
    return storage_at(as_place(out))


def contents(out: str, *folders: str) -> dict[str, bytes]:
    """The files that a run is for, or those of other folders, by name."""
    storage = stored(out)
    return {
        name: storage.read(name) for folder in folders or ("shards", "index") for name in sorted(storage.files(folder))
    }


def assert_like(out: str, folder: Any) -> None:
    """The files of a run in a bucket are those of a run in a folder, byte for byte, and all of it can be read."""
    run = ll.open_run(out)
    assert run.counts == ll.open_run(folder).counts and not run.counts.pending
    assert contents(out) == contents(str(folder))
    found = ll.runs.verify(out)
    assert not found.damaged and not found.lost
    for example in run:
        for kept in example.maps.values():
            assert kept.error or kept.values.isfinite().all()
