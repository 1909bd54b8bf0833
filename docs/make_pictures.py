"""The README's screenshots, made from the demonstration picture: `python docs/make_pictures.py` (needs chromium)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1280, "height": 900}
MINUTES = 5


def main() -> None:
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        sys.exit("no chromium on this machine: apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport=SIZE)
        report(page)
        live(page)
        browser.close()


def report(page: Any) -> None:
    """The report of the demo, with the pointer on an eye."""
    with tempfile.TemporaryDirectory() as folder:
        limelight("explain", "demo", "-o", folder, "--no-progress")
        page.goto((Path(folder) / "demo.html").as_uri())
        page.wait_for_selector("figure[data-method=occlusion][data-drawn]")
        page.locator("figure[data-method=grad-cam] canvas").first.hover(position={"x": 90, "y": 100})
        shoot(page, "report")


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
            shoot(page, "page")
        finally:
            server.terminate()


def shoot(page: Any, name: str) -> None:
    page.wait_for_timeout(200)
    page.screenshot(path=IMAGES / f"{name}.jpg", type="jpeg", quality=88, full_page=True)


def limelight(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "limelight", *arguments], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
