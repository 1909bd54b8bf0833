"""Checks hold a pass of rows at a time, however many rows they need."""

from __future__ import annotations

import pytest

from ..memory import peaks

pytestmark = pytest.mark.long

SCRIPT = """
net = torch.nn.Sequential(torch.nn.Conv2d(3, 32, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
                          torch.nn.Flatten(), torch.nn.Linear(32, 2))
x = torch.rand(1, 3, 128, 128)
before = peak()
found = ll.check(net, x, ll.Gradient(), ll.{check}, target=0, rows_per_pass=8)[0]
assert found.forward_rows >= {rows}, found.forward_rows
"""


@pytest.mark.parametrize(
    ("few", "many"),
    [
        (("Deletion(steps=16)", 16), ("Deletion(steps=400)", 400)),
        (("PixelFlipping(region=8, steps=16)", 16), ("PixelFlipping(region=4, steps=400)", 400)),
        pytest.param(
            ("MaxSensitivity(samples=64)", 64), ("MaxSensitivity(samples=640)", 640), marks=pytest.mark.release
        ),
        pytest.param(
            ("ROAD(shares=tuple(k / 13 for k in range(1, 13)))", 24),
            ("ROAD(shares=tuple(k / 100 for k in range(1, 100)))", 198),
            marks=pytest.mark.release,
        ),
    ],
    ids=lambda each: each[0],
)
def test_peak_memory_is_flat_in_the_number_of_rows(few: tuple[str, int], many: tuple[str, int]) -> None:
    """Peak resident memory of many rows is within 10% of that of a few full passes, each in a process of its own."""
    # Freed blocks go back to the system at once: what is measured is what is held, and not the allocator's habits.
    (first, _), (second, _) = (
        peaks(SCRIPT.format(check=check, rows=rows), MALLOC_MMAP_THRESHOLD_="65536") for check, rows in (few, many)
    )
    assert second <= 1.1 * first
