"""Answers of a black box that are kept on disk: no row is paid for twice."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import limelight as ll

from .networks import pictures

ROOT = Path(__file__).parents[1]
WEIGHT = np.linspace(-1, 1, 192)

METHODS = [
    ll.Occlusion(2, 2),
    ll.FeatureAblation(ll.Grid(4)),
    ll.RISE(60, cells=3),
    ll.ExactShapley(ll.Grid(2)),
    ll.KernelShap(60, players=ll.Grid(3)),
    ll.ShapleySampling(8, players=ll.Grid(3)),
    ll.PermutationShap(8, players=ll.Grid(3)),
    ll.PartitionShap(60, players=ll.Grid(4)),
    ll.Lime(60, players=ll.Grid(4)),
]


class Service:
    """Counts the rows that it is asked, and fails with `error` at call `fails`."""

    def __init__(self, fails: int | None = None, error: BaseException | None = None) -> None:
        self.fails, self.error = fails, error
        self.calls, self.asked = 0, 0
        self.seen: list[bytes] = []

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        self.calls += 1
        if self.calls == self.fails:
            assert self.error is not None
            raise self.error
        self.asked += len(rows)
        self.seen += [row.tobytes() for row in rows]
        score = np.tanh((rows.reshape(len(rows), -1) * WEIGHT).sum(1))
        return np.stack([score, -score], 1)


def kept(service: Any, folder: Path, **settings: Any) -> ll.BlackBox:
    return ll.BlackBox(service, **{"cache": folder, "name": "service-v1", **settings})


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_a_run_after_an_error_asks_the_missing_rows_alone(method: ll.Method, tmp_path: Path) -> None:
    x = pictures(2)
    how: dict[str, Any] = {"target": 0, "rows_per_pass": 5}
    plain = Service()
    expected = ll.explain(ll.BlackBox(plain), x, method, **how)
    for error, raised in ((RuntimeError("quota"), RuntimeError), (ConnectionError("gone"), ConnectionError)):
        folder = tmp_path / raised.__name__
        failing = Service(6, error)
        with pytest.raises(raised):
            ll.explain(kept(failing, folder), x, method, **how)
        again = Service()
        a = ll.explain(kept(again, folder), x, method, **how)
        torch.testing.assert_close(a.values, expected.values, rtol=0, atol=0, equal_nan=True)
        assert failing.asked > 15 and again.asked == a.forward_rows
        assert failing.asked + again.asked <= plain.asked == a.forward_rows + a.cached_rows
        # Rows that look at other company are asked a second time on purpose.
        assert len(set(failing.seen) & set(again.seen)) == 0
        silent = Service(1, AssertionError("nothing is missing"))
        b = ll.explain(kept(silent, folder), x, method, **how)
        assert b.forward_rows == 0 and b.cached_rows == plain.asked and silent.calls == 0
        torch.testing.assert_close(b.values, expected.values, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("method", METHODS, ids=repr)
def test_what_ctrl_c_cut_is_kept(method: ll.Method, tmp_path: Path) -> None:
    x, how = pictures(1), {"target": 0, "rows_per_pass": 5}
    needs_all = isinstance(method, ll.Occlusion | ll.FeatureAblation | ll.ExactShapley)
    cut = Service(4 if needs_all else 9, KeyboardInterrupt())
    if needs_all:
        with pytest.raises(KeyboardInterrupt):
            ll.explain(kept(cut, tmp_path), x, method, **how)  # type: ignore[arg-type]
    else:
        partial = ll.explain(kept(cut, tmp_path), x, method, **how)  # type: ignore[arg-type]
        assert any("INTERRUPTED" in note for note in partial.cautions) and partial.forward_rows == cut.asked
    again = Service()
    a = ll.explain(kept(again, tmp_path), x, method, **how)  # type: ignore[arg-type]
    assert not set(cut.seen) & set(again.seen) and again.asked == a.forward_rows
    plain = ll.explain(ll.BlackBox(Service()), x, method, **how)  # type: ignore[arg-type]
    torch.testing.assert_close(a.values, plain.values, rtol=0, atol=0, equal_nan=True)
    assert not [note for note in a.cautions if "INTERRUPTED" in note]


def test_cached_rows_are_told_saved_and_loaded(tmp_path: Path) -> None:
    x, method = pictures(1), ll.Occlusion(2, 2)
    first, second = (ll.explain(kept(Service(), tmp_path), x, method) for _ in range(2))
    assert first.cached_rows == second.forward_rows == 0
    assert second.cached_rows == first.forward_rows + first.cached_rows
    assert f"0+0+{second.cached_rows} cached" in repr(second)
    assert any(f"{second.cached_rows} from the cache" in line for line in second.caption())
    path = second.save(tmp_path / "map.safetensors")
    assert ll.Attribution.load(path).cached_rows == second.cached_rows
    panel = ll.explain(kept(Service(), tmp_path), x, [method, ll.FeatureAblation(ll.Grid(2))])
    assert panel.cached_rows == second.cached_rows and panel.forward_rows == 4
    assert panel[0].cached_rows == second.cached_rows and panel[1].forward_rows == 4


def test_maps_of_the_same_content_share_answers_whatever_the_target(tmp_path: Path) -> None:
    x = pictures(2)
    ll.explain(kept(Service(), tmp_path), x, ll.Occlusion(2, 2), target=0)
    service = Service()
    a = ll.explain(kept(service, tmp_path), x, ll.Occlusion(2, 2), target=[1, 0])
    assert service.calls == 0 and a.forward_rows == 0
    torch.testing.assert_close(
        a.values, ll.explain(ll.BlackBox(Service()), x, ll.Occlusion(2, 2), target=[1, 0]).values, rtol=0, atol=0
    )


def test_name_dtype_shape_and_layout_tell_rows_apart(tmp_path: Path) -> None:
    x = pictures(1)
    asked = []
    for x_, settings in (
        (x, {}),
        (x, {"name": "service-v2"}),
        (x.float(), {}),
        (x.clamp(0, 1), {"dtype": "uint8"}),
        (x.reshape(1, 12, 4, 4), {}),
        (x, {"layout": "flat"}),
        (x, {"layout": "NHWC"}),
    ):
        for expected in (1, 0):
            service = Service()
            kept(service, tmp_path, **settings)(x_)
            assert service.asked == expected
            asked.append(service.asked)
    assert sum(asked) == 7


def test_another_service_of_the_name_is_found_out_by_its_shape(tmp_path: Path) -> None:
    x = pictures(2)
    kept(Service(), tmp_path)(x[:1])
    with pytest.raises(
        ValueError, match=r"outputs of shape \(1,\) and \(2,\) under the name 'service-v1'.*another name"
    ):
        kept(lambda rows: rows.mean((1, 2, 3)), tmp_path)(x)


@pytest.mark.parametrize("wanted", [{}, {"name": None}, {"name": ""}])
def test_a_cache_needs_a_name(wanted: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"BlackBox\.cache='.*' needs a name= too"):
        ll.BlackBox(Service(), cache=tmp_path, **wanted)


def _file(folder: Path) -> Path:
    (found,) = folder.glob("*.sqlite3")
    return found


def test_damaged_entries_are_asked_again(tmp_path: Path) -> None:
    x = pictures(3)
    expected = kept(Service(), tmp_path)(x)
    for column, value in (("outputs", b"\0" * 16), ("outputs", b""), ("shape", "3"), ("shape", "x"), ("digest", None)):
        with sqlite3.connect(_file(tmp_path)) as opened:
            row = opened.execute("SELECT row FROM answers LIMIT 1").fetchone()[0]
            opened.execute(f"UPDATE answers SET {column} = ? WHERE row = ?", (value, row))
        opened.close()
        service = Service()
        torch.testing.assert_close(kept(service, tmp_path)(x), expected, rtol=0, atol=0)
        assert service.asked == 1
    service = Service()
    kept(service, tmp_path)(x)
    assert service.asked == 0


@pytest.mark.parametrize("damage", ["no database", "cut", "zeros in the middle", "empty"])
def test_a_damaged_file_is_set_aside(damage: str, tmp_path: Path) -> None:
    x = pictures(200)
    expected = kept(Service(), tmp_path)(x)
    path = _file(tmp_path)
    whole = path.read_bytes()
    half = len(whole) // 2
    broken = {
        "no database": b"something else" * 1000,
        "cut": whole[:half],
        "zeros in the middle": whole[:4096] + bytes(len(whole) - 4096),
        "empty": b"",
    }
    path.write_bytes(broken[damage])
    service = Service()
    if damage == "empty":  # an empty file is an empty database
        found = kept(service, tmp_path)(x)
    else:
        with pytest.warns(UserWarning, match="is damaged .* and was moved to answers.sqlite3.damaged"):
            found = kept(service, tmp_path)(x)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert service.asked == 200
    again = Service()
    kept(again, tmp_path)(x)
    assert again.asked == 0


def test_rows_with_nan_are_not_kept(tmp_path: Path) -> None:
    x = pictures(2)

    def hiccup(rows: np.ndarray) -> np.ndarray:
        found = np.ones((len(rows), 2))
        found[0] = np.nan
        return found

    kept(hiccup, tmp_path)(x)
    service = Service()
    kept(service, tmp_path)(x)
    assert service.asked == 1


def test_equal_rows_of_a_pass_are_asked_once(tmp_path: Path) -> None:
    x = pictures(2)[[0, 1, 0, 0, 1]]
    service = Service()
    torch.testing.assert_close(kept(service, tmp_path)(x), ll.BlackBox(Service())(x), rtol=0, atol=0)
    assert service.asked == 2


def test_a_wrong_number_of_answers_is_not_kept(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for 3 rows"):
        kept(lambda rows: [[1.0, 2.0]], tmp_path)(pictures(3))
    service = Service()
    kept(service, tmp_path)(pictures(3))
    assert service.asked == 3


def test_a_model_that_draws_is_found_out_with_a_cache_too(tmp_path: Path) -> None:
    for draw in (
        lambda rows: torch.rand(len(rows), 2),
        lambda rows: np.random.default_rng().normal(size=(len(rows), 2)),
    ):
        folder = tmp_path / str(id(draw))
        with pytest.raises(ValueError, match=r"draws random numbers|or is random"):
            ll.explain(kept(draw, folder), pictures(2), "occlusion", target=0)


def test_retries_and_cache_go_together(tmp_path: Path) -> None:
    service = Service(2, OSError("busy"))
    a = ll.explain(kept(service, tmp_path, retries=1, wait=0.0), pictures(1), ll.Occlusion(2, 2), target=0)
    assert service.asked == a.forward_rows


def test_threads_and_processes_share_a_folder(tmp_path: Path) -> None:
    x = pictures(60)
    expected = ll.BlackBox(Service())(x)
    failures: list[BaseException] = []

    def work(start: int) -> None:
        try:
            box = kept(Service(), tmp_path)
            for i in range(start, start + 60):
                torch.testing.assert_close(box(x[[i % 60]]), expected[[i % 60]], rtol=0, atol=0)
        except BaseException as error:  # noqa: BLE001  a thread's failure is the test's
            failures.append(error)

    threads = [threading.Thread(target=work, args=(start,)) for start in (0, 20, 40)]
    other = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=ROOT)
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert other.wait() == 0 and not failures
    service = Service()
    torch.testing.assert_close(kept(service, tmp_path)(x), expected, rtol=0, atol=0)
    assert service.asked == 0


SCRIPT = """
import sys
from pathlib import Path
from tests.test_black_box_cache import Service, kept
from tests.networks import pictures
x = pictures(60)
box = kept(Service(), Path(sys.argv[1]))
while True:
    for i in range(60):
        box(x[[i]])
    if len(sys.argv) < 3:
        break
    for path in Path(sys.argv[1]).glob("*.sqlite3"):
        with __import__("contextlib").closing(__import__("sqlite3").connect(path)) as opened:
            opened.execute("DELETE FROM answers WHERE row IN (SELECT row FROM answers LIMIT 30)")
            opened.commit()
"""


def test_a_process_that_is_killed_leaves_a_whole_file(tmp_path: Path) -> None:
    x = pictures(60)
    expected = ll.BlackBox(Service())(x)
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path), "on"], cwd=ROOT)
    give_up = time.monotonic() + 60
    while not list(tmp_path.glob("*.sqlite3")) and time.monotonic() < give_up:
        time.sleep(0.05)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    torch.testing.assert_close(kept(Service(), tmp_path)(x), expected, rtol=0, atol=0)
    assert not list(tmp_path.glob("*.damaged"))
