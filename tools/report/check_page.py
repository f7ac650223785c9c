"""Opens a report of `cbn report` in headless Chromium and looks whether it works.

    pip install playwright==1.65.2          # and Debian's package chromium, or --chromium PATH
    python tools/report/check_page.py work_dirs/run/report.html --screenshots shots

Fails (exit 1) if the page asks for anything outside itself, an error reaches the console, a chart is empty, a table does not sort, a picture does not
load, or the page is wider than the screen, on a desktop and on a phone. Screenshots: the top of the page on both.
"""

import argparse
import pathlib
import shutil
import sys

from playwright.sync_api import sync_playwright

SCREENS = {"desktop": (1280, 1500), "phone": (390, 1500)}


def column(page, table, index):
    keys = page.evaluate(
        "([t, i]) => [...document.querySelectorAll('table.sortable')[t].tBodies[0].rows].map(r => r.cells[i].dataset.key)", [table, index]
    )
    return [float(key) for key in keys if key != ""]


def check_sorting(page, faults):
    num_tables = page.locator("table.sortable").count()
    for table in range(num_tables):
        heads = page.locator("table.sortable").nth(table).locator("th")
        for index in range(heads.count()):
            head = heads.nth(index)
            if "number" not in (head.get_attribute("class") or ""):
                continue
            for direction in ("descending", "ascending"):
                head.locator("button").click()
                values = column(page, table, index)
                if values != sorted(values, reverse=direction == "descending") or head.get_attribute("aria-sort") != direction:
                    faults.append(f"table {table}, column {index}: not {direction}: {values}")
    return num_tables


def check(browser, path, name, size, shots):
    faults = []
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, device_scale_factor=1)
    page = context.new_page()
    page.on("console", lambda message: faults.append(f"console: {message.text}") if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: faults.append(f"script: {error}"))
    page.on("request", lambda request: None if request.url.startswith(("file:", "data:")) else faults.append(f"asks for {request.url}"))
    page.goto(path.resolve().as_uri())
    if shots:
        page.screenshot(path=shots / f"{name}.png")
        page.screenshot(path=shots / f"{name}_whole.png", full_page=True)
        if name == "desktop":
            page.pdf(path=shots / "print.pdf", format="A4")
    charts = page.locator("figure.chart")
    for index in range(charts.count()):
        chart = charts.nth(index)
        box = chart.locator("svg").bounding_box()
        if chart.locator("polyline, rect.f0").count() == 0 or box["width"] < 200 or box["height"] < 50:
            faults.append(f"chart {chart.locator('h3').inner_text()!r} is empty: {box}")
    broken = page.evaluate("[...document.images].filter(i => !i.complete || i.naturalWidth === 0).length")
    if broken:
        faults.append(f"{broken} pictures do not load")
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    if overflow > 0:
        faults.append(f"the page is {overflow} pixels wider than the screen")
    num_tables = check_sorting(page, faults)
    print(f"{name}: {charts.count()} charts, {page.locator('img').count()} pictures, {num_tables} tables that sort, {len(faults)} faults")
    return [f"{name}: {fault}" for fault in faults]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=pathlib.Path)
    parser.add_argument("--screenshots", type=pathlib.Path)
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    args = parser.parse_args()
    if args.screenshots:
        args.screenshots.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.chromium, args=["--no-sandbox"])
        faults = [fault for name, size in SCREENS.items() for fault in check(browser, args.report, name, size, args.screenshots)]
        browser.close()
    print("\n".join(faults))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
