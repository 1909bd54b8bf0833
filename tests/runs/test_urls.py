"""URLs of a run: allowed protocols alone, no chains, and tables that name nothing elsewhere."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sysconfig
import threading
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import limelight as ll
from limelight.cli.main import app
from limelight.runs import write_report
from limelight.runs.manifest import Entry
from limelight.runs.opening import PROTOCOLS, Facts, is_folder, open_binary
from limelight.runs.sources import find_examples
from limelight.runs.text_sources import find_texts

from .helpers import ROOT, pictures, start

CHAINS = (
    "reference://x.png::file:///evil.json",
    "reference://x.png?fo=/evil.json",
    "simplecache::file:///a.png",
    "filecache::s3://bucket/a.png",
    "zip://a.png::https://host/a.zip",
    "tar://a.png::file:///a.tar",
    "dir://a::file:///b",
    "s3://bucket/a.png::reference://x",
    "file:///a::reference://x.png::file:///evil.json",
    "generic://x.png",
    "github://owner:repo@main/a.png",
    "ftp://host/a.png",
    "http://host/a.png",
    "data://x",
    "local:///etc/passwd",
    "S3://bucket/a.png",
    "file://a.png",
    "file://localhost/a.png",
    "file://",
)


@pytest.mark.parametrize("url", CHAINS)
def test_a_url_that_is_not_allowed_is_named(url: str, tmp_path: Path) -> None:
    (tmp_path / "table.csv").write_text(f"path\na.png\n{url}\n")
    for elsewhere in (False, True):
        with pytest.raises(ValueError, match=rf"table\.csv', row 2: {re.escape(repr(url))} "):
            list(find_examples(str(tmp_path / "table.csv"), elsewhere=elsewhere))
    for find in (find_examples, lambda place: find_texts(place, "text")):
        with pytest.raises(ValueError, match=rf"^images: {re.escape(repr(url))} "):
            list(find(url))
    if url.partition("://")[0] not in PROTOCOLS:
        for read in (open_binary, is_folder, lambda place: Entry("", "", place).read()):
            with pytest.raises(ValueError, match="protocol"):
                read(url)


@pytest.mark.parametrize(
    ("table", "path", "allowed"),
    [
        ("/data/t.csv", "a.png", True),
        ("/data/t.csv", "../b/a.png", True),
        ("/t.csv", "a.png", True),
        ("/data/t.csv", "/b/a.png", True),
        ("/data/t.csv", "file:///b/a.png", True),
        ("/data/t.csv", "https://host/a.png", False),
        ("/data/t.csv", "s3://bucket/a.png", False),
        ("/data/t.csv", "memory://a.png", False),
        ("file:///data/t.csv", "/b/a.png", True),
        ("https://host/t.csv", "a.png", True),
        ("https://host/t.csv", "https://host/b/a.png", True),
        ("https://host/t.csv", "/etc/passwd", False),
        ("https://host/t.csv", "//other/a.png", False),
        ("https://host/t.csv", "file:///etc/passwd", False),
        ("https://host/t.csv", "https://169.254.169.254/latest", False),
        ("https://host/t.csv", "https://host:8443/a.png", False),
        ("https://host/t.csv", "https://host@other/a.png", False),
        ("https://host/t.csv", "https://host\\@other/a.png", False),
        ("https://t.csv", "other/a.png", False),
        ("s3://bucket/t.csv", "s3://bucket/b/a.png", True),
        ("s3://bucket/t.csv", "s3://other/a.png", False),
        ("s3://bucket/t.csv", "gs://bucket/a.png", False),
        ("s3://bucket/t.csv", "b/a::b.png", True),
        ("file:///data/t.csv", "reference::a.png", True),
    ],
)
def test_a_table_names_its_own_host_unless_it_is_trusted(table: str, path: str, allowed: bool) -> None:
    from limelight.runs.sources import _place_in

    whole = "://" in path or path.startswith("/")
    place = path if whole else f"{table.rpartition('/')[0]}/{path}"
    assert _place_in(table, path, elsewhere=True) == place
    if allowed:
        assert _place_in(table, path, elsewhere=False) == place
    else:
        with pytest.raises(ValueError, match=r"a table that you trust may name it with --elsewhere"):
            _place_in(table, path, elsewhere=False)


def test_the_flag_elsewhere(tmp_path: Path) -> None:
    fsspec = pytest.importorskip("fsspec", reason="URLs need the extra 'cloud'")
    place = next(pictures(tmp_path / "images", 3).rglob("*.png"))
    for name in ("a.png", "a::b.png"):  # in a folder the second is a name, and no chain
        fsspec.filesystem("memory").pipe_file(f"/{tmp_path.name}/{name}", place.read_bytes())
    (tmp_path / "t.csv").write_text(f"path\n{place}\nmemory://{tmp_path.name}/a.png\n")
    arguments = ["run", "--images", str(tmp_path / "t.csv"), "-m", "gradient", "--workers", "0"]
    arguments += ["-o", str(tmp_path / "out"), "--model", "tests.runs.networks:plain"]
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "row 2: the path 'memory://" in refused.stderr, refused.stderr
    made = CliRunner().invoke(app, [*arguments, "--elsewhere"])
    assert made.exit_code == 0, made.output
    assert [Path(each.path).name for each in find_examples(f"memory://{tmp_path.name}")] == ["a.png", "a::b.png"]
    assert all(each.read() == place.read_bytes() for each in find_examples(f"memory://{tmp_path.name}"))


@contextmanager
def _serving(files: dict[str, bytes], redirects: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and the paths that it was asked for."""
    asked = list[str]()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            content = files.get(self.path, b"")
            self.send_response(302 if self.path in redirects else 200 if content else 404)
            if self.path in redirects:
                self.send_header("Location", redirects[self.path])
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        do_HEAD = do_GET

        def log_message(self, *anything: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


def test_redirects_to_another_host_are_refused_unless_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By servers without a certificate, for which the protocol is allowed here alone."""
    pytest.importorskip("aiohttp", reason="https needs the extra 'cloud'")
    monkeypatch.setattr("limelight.runs.opening.PROTOCOLS", (*PROTOCOLS, "http"))
    content = next(pictures(tmp_path / "images", 3).rglob("*.png")).read_bytes()
    files = {"/a.png": content, "/t.csv": b"path\na.png\nhere.png\naway.png\n", "/latest": b"a secret"}
    with _serving(files, {}) as (other, asked):
        redirects = {"/here.png": "/a.png", "/away.png": f"{other}/a.png", "/away.csv": f"{other}/t.csv"}
        with _serving(files, redirects) as (site, _):
            for find in (find_examples, lambda table, **options: find_texts(table, "path", **options)):
                with pytest.raises(ValueError, match=rf"'{site}/away.csv' redirects to '{other}'.*--elsewhere"):
                    list(find(f"{site}/away.csv"))
                assert not asked and len(list(find(f"{site}/away.csv", elsewhere=True))) == 3
                asked.clear()
            run = start(f"{site}/t.csv", tmp_path / "out", methods=["gradient"])  # type: ignore[arg-type]
            assert [bool(each.error) for each in run] == [False, False, True] and not asked
            assert run[2].error.startswith("RedirectElsewhere: ") and "with --elsewhere" in run[2].error
            run = start(f"{site}/t.csv", tmp_path / "trusted", methods=["gradient"], elsewhere=True)  # type: ignore[arg-type]
            assert not any(each.error for each in run) and asked


def test_links_of_a_page_to_itself_list_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("aiohttp", reason="https needs the extra 'cloud'")
    monkeypatch.setattr("limelight.runs.opening.PROTOCOLS", (*PROTOCOLS, "http"))
    links = [f'<a href="{each}">.</a>' for each in ("/", "../", "/p/", "?C=N;O=D", "a.png", "#top", "./")]
    page, below = "".join([*links, '<a href="s/">.</a>']).encode(), "".join([*links, '<a href="/p/s/">.</a>']).encode()
    with _serving({"/p/": page, "/p": page, "/p/s/": below, "/p/s": below}, {}) as (site, _):
        for spelling in (f"{site}/p/", f"{site}/p"):
            assert [each.path for each in find_examples(spelling, elsewhere=True)] == ["a.png", "s/a.png"]


def test_tags_of_a_listing_and_of_a_file_are_equal() -> None:
    assert Facts.of({"size": 3, "ETag": '"abc"'}) == Facts.of({"size": 3, "ETag": "abc", "mtime": 1}) == (3, "ETag abc")
    assert Facts.of({"size": None}) == (-1, "")


class _Unheard(Exception):
    """What a bucket's file system raises, of no kind that we know."""


@pytest.mark.parametrize("place", ["memory://nowhere", "memory://nowhere/t.csv", "memory://nowhere/t.tar"])
def test_what_is_not_at_a_url_is_named(place: str) -> None:
    pytest.importorskip("fsspec", reason="URLs need the extra 'cloud'")
    with pytest.raises(FileNotFoundError, match=rf"^images: '{place}' cannot be read: FileNotFoundError: "):
        list(find_examples(place))


@pytest.mark.parametrize("function", ["is_folder", "open_binary"])
def test_whatever_a_store_raises_names_the_data_set(function: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """s3fs raises what botocore does where it finds no credentials: a plain Exception."""

    def fail(*asked: Any) -> None:
        raise _Unheard("no credentials")

    for module in ("sources", "table_rows", "text_sources"):
        monkeypatch.setattr(f"limelight.runs.{module}.{function}", fail, raising=False)
    place = "s3://bucket/photos" if function == "is_folder" else "s3://bucket/t.csv"
    for find in (find_examples, *([lambda table: find_texts(table, "a")] if function == "open_binary" else [])):
        with pytest.raises(OSError, match=f"^images: '{place}' cannot be read: _Unheard: no credentials$"):
            list(find(place))


@pytest.mark.parametrize("error", [_Unheard("no answer"), ImportError("no s3fs"), MemoryError(), KeyError("x")])
def test_one_unreadable_picture_ends_no_report(
    error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = start(pictures(tmp_path / "images", 3), tmp_path / "out", methods=["gradient"])
    read = Entry.read

    def fail(entry: Entry) -> bytes:
        if entry.path == "b/00001.png":
            raise error
        return read(entry)

    monkeypatch.setattr(Entry, "read", fail)
    page = write_report(ll.open_run(run.out)).read_text()
    assert "b/00001.png" in page and "(the picture cannot be read: " in page


FLOOR = next(
    found[1]
    for each in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cloud"]
    if (found := re.fullmatch(r"fsspec>=([\d.]+)", each))
)
_ATTACK = """
import json, sys
from pathlib import Path
import fsspec, jinja2
from limelight.runs.manifest import Entry
from limelight.runs.opening import files_below, is_folder, open_binary
from limelight.runs.sources import find_examples

folder, chains = Path(sys.argv[1]), json.loads(sys.argv[2])
found = {"version": fsspec.__version__, "said": []}
for i, url in enumerate(chains):
    (folder / "table.csv").write_text(f"path\\n{url}\\n")
    for ask in (
        lambda: list(find_examples(str(folder / "table.csv"))),
        lambda: list(find_examples(str(folder / "table.csv"), elsewhere=True)),
        lambda: list(find_examples(url)),
        lambda: open_binary(url),
        lambda: is_folder(url),
        lambda: list(files_below(url)),
        lambda: Entry("", "", url).read(),
    ):
        try:
            ask()
        except Exception as error:
            found["said"].append([url, f"{type(error).__name__}: {error}"])
        else:
            found["said"].append([url, "accepted"])
found["executed by limelight"] = (folder / "owned").exists()
if len(sys.argv) > 3:
    try:
        fsspec.open(chains[0], "rb").open()
    except Exception as error:
        found["fsspec"] = f"{type(error).__name__}: {error}"
    found["executed by fsspec"] = (folder / "owned").exists()
print(json.dumps(found))
"""


@pytest.mark.long
@pytest.mark.parametrize("version", [FLOOR, "2024.6.0"], ids=["lowest allowed", "vulnerable"])
def test_a_reference_file_executes_nothing(version: str, tmp_path: Path) -> None:
    """In an environment of its own. An old fsspec executes the file; limelight does not even there."""
    pytest.importorskip("jinja2", reason="a reference file's templates need jinja2")
    evil = tmp_path / "evil.json"
    made = "{{ cycler.__init__.__globals__.os.open('" + str(tmp_path / "owned") + "', 64) }}"
    templates = {"u": made + "{{ x }}"}
    evil.write_text(json.dumps({"version": 1, "templates": templates, "refs": {"x.png": ["{{ u(x=1) }}"]}}))
    gen = tmp_path / "gen.json"
    gen.write_text(json.dumps({"version": 1, "gen": [{"key": made, "url": "u", "dimensions": {"i": [0]}}], "refs": {}}))
    chains = [
        f"{first}::file://{file}"
        for file in (gen, evil)
        for first in ("reference://x.png", "simplecache::reference://x.png", "reference://", "dir://x::reference://")
    ]
    found = _asked(version, tmp_path, _ATTACK, str(tmp_path), json.dumps(chains), "fsspec too")
    assert found["version"] == version
    assert not found["executed by limelight"]
    assert len(found["said"]) == 7 * len(chains)
    for url, said in found["said"]:
        assert said.startswith("ValueError: ") and repr(url) in said and "chain" in said, said
    assert found["executed by fsspec"] == (version == "2024.6.0"), found


def _asked(version: str, tmp_path: Path, code: str, *arguments: str) -> dict[str, Any]:
    """Run code in a new environment that has this fsspec, and everything else of the present one."""
    environment = tmp_path / "environment"
    venv.create(environment, with_pip=True, symlinks=True)
    python = environment / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--no-deps", f"fsspec=={version}"]
    installed = subprocess.run(pip, capture_output=True, text=True, timeout=300)
    if installed.returncode:
        pytest.skip(f"pip cannot install fsspec=={version}: {installed.stderr.strip()[-200:]}")
    paths = subprocess.run(
        [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"], capture_output=True, text=True
    )
    (Path(paths.stdout.strip()) / "present.pth").write_text(sysconfig.get_path("purelib") + "\n")
    done = subprocess.run(
        [str(python), "-c", code, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found
