"""The report in a real browser, at the width of a desk and of a phone; skipped where there is no Chromium."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

import pytest

from evaluate.detection.probe import DETECTIONS
from evaluate.tables.report.page import write_page
from tests.evaluate.tables.report.small_report import add_pictures, small_table

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)

# The page lies in frames of both widths; the outer page asks them how they look and writes it down.
OUTER = """<!doctype html><title>x</title>
<iframe src="index.html" width="1280" height="900"></iframe>
<iframe src="index.html#result-5" width="390" height="844"></iframe>
<pre></pre><script>
addEventListener("load", () => {
  document.querySelector("pre").textContent = JSON.stringify([...document.querySelectorAll("iframe")].map(frame => {
    const inner = frame.contentWindow, page = inner.document, first = page.querySelector("tbody th");
    const box = page.querySelector(".scroll");
    box.scrollLeft = 1000;
    return {
      inner: inner.innerWidth, scroll: page.documentElement.scrollWidth, moved: box.scrollLeft,
      left: Math.round(first.getBoundingClientRect().left - box.getBoundingClientRect().left),
      images: [...page.images].map(image => [image.naturalWidth, image.clientWidth <= inner.innerWidth]),
      charts: [...page.querySelectorAll("svg")].map(chart => Math.round(chart.getBoundingClientRect().width)),
      text: Math.min(...[...page.querySelectorAll("svg text")].map(text => text.getBoundingClientRect().height)),
      open: [...page.querySelectorAll("details[open] > dl")].map(list => list.id),
    };
  }));
});
</script>"""


@pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
def test_it_fits_every_width_and_says_nothing_to_the_console(tmp_path: Path) -> None:
    table, results = small_table(tmp_path, "a name that is long-winded: resnet18(channels=[16,32,64,128],stem=small)")
    add_pictures(results[0], DETECTIONS, "a very_long_caption_" * 20, "a.png", size=(1500, 300))
    report = write_page(table, results, tmp_path / "report").parent
    (report / "outer.html").write_text(OUTER)
    done = subprocess.run(
        [
            *(str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=10000"),
            *("--window-size=1400,2000", "--dump-dom", (report / "outer.html").as_uri()),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    written = re.search(r"<pre>(.*)</pre>", done.stdout)
    assert written is not None
    desk, phone = json.loads(unescape(written[1]))
    assert (desk["inner"], phone["inner"]) == (1280, 390)
    for seen in (desk, phone):
        assert seen["scroll"] <= seen["inner"]
        assert seen["images"] == [[960, True]]
        assert seen["text"] > 8  # pixels: charts stay legible
        assert len(seen["charts"]) == 1
    assert phone["moved"] > 0  # the table scrolls in its box,
    assert phone["left"] in (0, 1)  # and its first column stays
    assert desk["open"] == []
    assert phone["open"] == ["result-5"]  # a link to a result opens it
