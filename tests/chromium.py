"""Open a page in headless Chromium, in a frame of some width, and measure what a reader sees."""

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)

_MEASURE = """
const frame = document.querySelector('iframe'), out = document.querySelector('#out');
frame.addEventListener('load', () => setTimeout(() => {
  const page = frame.contentDocument, width = page.documentElement.clientWidth, cut = [];
  for (const part of page.querySelectorAll('body *')) {
    if (part.closest('.scroll, pre, .view, svg') || !part.getClientRects().length) continue;
    const place = part.getBoundingClientRect();
    if (place.right > width + 1 || place.left < -1 || getComputedStyle(part).overflowX === 'hidden')
      cut.push(part.tagName + ' ' + part.textContent.slice(0, 40));
  }
  const images = [...page.images];
  out.textContent = JSON.stringify({
    width, scroll: page.documentElement.scrollWidth, height: page.documentElement.scrollHeight, cut,
    images: images.length, broken: images.filter(image => !image.naturalWidth).length,
    fetched: frame.contentWindow.performance.getEntriesByType('resource')
      .map(entry => entry.name).filter(name => !name.startsWith('data:')),
    hidden: page.querySelectorAll('.choices > div[hidden]').length,
    buttons: page.querySelectorAll('.choices .buttons button').length,
  });
}, 500));
"""


def look_at(path: Path, width: int) -> dict[str, Any]:
    """Return what a browser shows of a page at a width in CSS pixels; `console` is its errors."""
    page = html.escape(path.read_text(encoding="utf-8"), quote=True)
    frame = f'<iframe srcdoc="{page}" style="width:{width}px;height:900px;border:0"></iframe>'
    whole = (
        f"<!DOCTYPE html><meta charset=utf-8>{frame}<pre id=out></pre><script>{_MEASURE}</script>"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "frame.html"
        file.write_text(whole, encoding="utf-8")
        words = [
            BROWSER,
            "--headless=new",
            "--no-sandbox",
            "--disable-gpu",
            "--enable-logging=stderr",
        ]
        words += ["--virtual-time-budget=10000", f"--user-data-dir={folder}/profile"]
        words += ["--window-size=1800,1000", "--dump-dom", file.as_uri()]
        done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    assert found and found[1], done.stderr[-2000:]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    return json.loads(html.unescape(found[1])) | {"console": console}
