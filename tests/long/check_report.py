#!/usr/bin/env python
"""Does a run's report open in a browser as it should? Prints a verdict as JSON; exit 1 if it does not.

    mlx-dpo report --run runs/granite-dpo
    python -m tests.long.check_report runs/granite-dpo

Opens report.html without a network in headless Chromium (Debian: apt-get install chromium; then pip install
playwright, which drives it), as wide as a phone and as a desk, light and dark. Nothing may appear on the
console, nothing but the page be asked for, every picture must be seen, and nothing stand out at the side.
"""

import argparse
import json
import shutil
import sys
from itertools import product
from pathlib import Path

WIDTHS = (360, 1280)
"""Of the window, in CSS pixels: a phone, a desk."""
_LEAST = 100
"""Pixels that a picture is wide and high at least."""

_SIZES = "all => all.map(e => { const b = e.getBoundingClientRect(); return [b.width, b.height]; })"
_STICKS_OUT = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def look(browser, report: Path, width: int, scheme: str, pictures: Path | None) -> dict:
    """Open the page once; what there is to see and what is wrong with it."""
    page = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    ).new_page()
    said, asked = [], []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri())
    sizes = page.eval_on_selector_all("svg", _SIZES)
    out = page.evaluate(_STICKS_OUT)
    if pictures:
        page.screenshot(path=pictures / f"{scheme}-{width}.png", full_page=True)
    problems = [f"console: {text}" for text in said]
    problems += [f"asked for {url}" for url in asked if url != report.as_uri()]
    problems += [f"svg {n} is {w:.0f} x {h:.0f}" for n, (w, h) in enumerate(sizes) if min(w, h) < _LEAST]
    problems += [f"{out} pixels stand out at the side"] if out > 0 else []
    return {"width": width, "scheme": scheme, "svgs": len(sizes), "problems": problems}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path, help="a run's folder with report.html")
    parser.add_argument("--browser", default=shutil.which("chromium"), help="Chromium's program")
    parser.add_argument("--pictures", type=Path, help="keep screenshots in this folder")
    options = parser.parse_args()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=options.browser, args=["--no-sandbox"])
        report = (options.run / "report.html").resolve()
        looks = [
            look(browser, report, width, scheme, options.pictures)
            for width, scheme in product(WIDTHS, ("light", "dark"))
        ]
        browser.close()
    good = all(found["svgs"] and not found["problems"] for found in looks)
    print(json.dumps({"report": str(report), "good": good, "looks": looks}, indent=1))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
