"""The page behind a reverse proxy: its public name, and the settings that docs/deployment.md gives."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .conftest import Server, png

pytest.importorskip("fastapi", reason="the page's extra 'app' is not installed")
from limelight.server.guard import require_origin

PUBLIC = "https://limelight.example.org"
PAGE = (Path(__file__).parents[2] / "docs" / "deployment.md").read_text()
PROXIED = {"host": "limelight.example.org", "origin": PUBLIC}


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture(scope="module")
def behind(serve: Callable[..., Server]) -> Server:
    return serve(public=PUBLIC)


class TestPublicName:
    def test_its_own_host_and_origin_are_answered(self, behind: Server) -> None:
        image = {"content-type": "image/png"}
        assert behind.ask("GET", "/", None, {"host": "limelight.example.org"})[0] == 200
        assert behind.ask("POST", "/api/pictures", png(), PROXIED | image)[0] == 200
        assert behind.ask("POST", "/api/pictures", png(), {"origin": behind.url} | image)[0] == 200

    @pytest.mark.parametrize(
        "headers",
        [
            {"host": "limelight.example.org", "origin": "http://limelight.example.org"},
            {"host": "limelight.example.org", "origin": "https://evil.example"},
            {"host": "limelight.example.org:8443"},
            {"host": "evil.limelight.example.org"},
            {"host": "127.0.0.1", "origin": PUBLIC},
            {"host": "limelight.example.org", "sec-fetch-site": "cross-site"},
        ],
    )
    def test_others_are_refused(self, behind: Server, headers: dict[str, str]) -> None:
        assert behind.ask("GET", "/api/form", None, headers)[0] == 403

    def test_without_it_no_public_name_is_answered(self, server: Server) -> None:
        status, _, body = server.ask("GET", "/", None, {"host": "limelight.example.org"})
        assert status == 403 and b"open http://127.0.0.1" in body

    @pytest.mark.parametrize(
        ("given", "origin"),
        [
            (PUBLIC, PUBLIC),
            ("HTTPS://Limelight.example.org/", PUBLIC),
            ("https://limelight.example.org:443", PUBLIC),
            ("http://10.0.0.2:8080", "http://10.0.0.2:8080"),
            ("https://[fd00::1]:8443", "https://[fd00::1]:8443"),
        ],
    )
    def test_an_address_is_read_as_browsers_write_it(self, given: str, origin: str) -> None:
        assert require_origin(given) == origin

    @pytest.mark.parametrize(
        "given", ["limelight.example.org", "https://a/b", "ftp://a", "https://a@b", "*", "https://"]
    )
    def test_what_is_no_address_is_refused(self, given: str) -> None:
        with pytest.raises(ValueError, match=r"--public .*: use the page's address without a path, such as https://"):
            require_origin(given)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd on this machine")
def test_the_unit_is_sound(tmp_path: Path) -> None:
    unit = tmp_path / "limelight.service"
    unit.write_text(block("ini").replace("/opt/limelight/bin/limelight", "/bin/true"))
    found = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True)
    assert (found.returncode, found.stderr) == (0, "")


@pytest.fixture
def nginx(tmp_path: Path, behind: Server) -> Iterator[int]:
    """The proxy of the documentation before the page, without its certificate: its port."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx on this machine")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    users = tmp_path / "users"
    users.write_text("alice:{PLAIN}secret\n")
    server = block("nginx").replace("443 ssl", f"127.0.0.1:{port}").replace("/etc/nginx/limelight.users", str(users))
    server = re.sub(r"ssl_certificate\S* .*", "", server).replace("127.0.0.1:8765", f"127.0.0.1:{behind.port}")
    temporary = "".join(
        f"{kind}_temp_path {tmp_path}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (tmp_path / "nginx.conf").write_text(
        f"{'user root;' * (os.getuid() == 0)} daemon off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;\n"
        f"events {{}}\nhttp {{ access_log off; {temporary}\n{server}\n}}\n"
    )
    with subprocess.Popen([program, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")]) as running:
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
        running.terminate()
        running.wait(20)


def test_the_proxy_of_the_documentation_serves_the_page_to_its_users(nginx: int, behind: Server) -> None:
    proxy = Server(nginx, behind.app)
    password = {"authorization": "Basic " + base64.b64encode(b"alice:secret").decode()}
    assert proxy.ask("GET", "/", None, {"host": "limelight.example.org"})[0] == 401
    assert proxy.ask("GET", "/", None, PROXIED | password)[0] == 200
    assert proxy.ask("GET", "/", None, PROXIED | password | {"origin": "https://evil.example"})[0] == 403
    status, _, body = proxy.ask("POST", "/api/pictures", png(), PROXIED | password | {"content-type": "image/png"})
    assert status == 200
    question = json.dumps({"pictures": [json.loads(body)["id"]], "methods": [{"name": "gradient"}], "tests": False})
    headers = PROXIED | password | {"content-type": "application/json"}
    status, _, body = proxy.ask("POST", "/api/explain", question, headers)
    assert status == 200 and b"event: map" in body and body.endswith(b"\n\n") and b"event: done" in body
    assert proxy.ask("POST", "/api/pictures", b"0" * 22_000_000, headers | {"content-type": "image/png"})[0] == 413
