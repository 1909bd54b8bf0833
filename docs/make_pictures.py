"""The README's pictures, made from the demonstration picture: `python docs/make_pictures.py` (needs chromium).

All are JPEGs in full colour: a palette of 256 colours would cut the colour bars into steps.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
WIDTH = 1280
REPORT, PAGE = 1040, 1680  # heights: down to the first row of trust cards
MINUTES = 5


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": REPORT})
        report(page)
        live(page)
        browser.close()


def report(page: Any) -> None:
    """The panel and the report of the demo."""
    with tempfile.TemporaryDirectory() as folder:
        limelight("explain", "demo", "-o", folder, "--no-progress")
        with Image.open(Path(folder) / "demo.png") as panel:
            panel.convert("RGB").save(IMAGES / "demo.jpg", quality=90, subsampling=0)
        page.goto((Path(folder) / "demo.html").as_uri())
        page.wait_for_selector("figure[data-method=occlusion][data-drawn]")
        shoot(page, "report", REPORT)


def live(page: Any) -> None:
    """The page once the demo's maps are there."""
    command = [sys.executable, "-m", "limelight", "serve", "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr is not None
            line = server.stderr.readline()
            page.goto(next(word for word in line.split() if word.startswith("http")))
            page.click("#demo")
            page.get_by_text("done:").wait_for(timeout=60_000 * MINUTES)
            shoot(page, "page", PAGE)
        finally:
            server.terminate()


def shoot(page: Any, name: str, height: int) -> None:
    """The top of the page, with the pointer on an eye."""
    page.set_viewport_size({"width": WIDTH, "height": height})
    page.evaluate("window.scrollTo(0, 0)")
    page.locator("figure[data-method=gradient] canvas").first.hover(position={"x": 80, "y": 105})
    page.wait_for_timeout(200)
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=88)


def limelight(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "limelight", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
