"""axe-core, in headless Chromium, over every built page in both themes: contrast, names of headers, links and pictures.

Needs the built book (`make book`) and a Chromium; it is skipped where one is missing.
"""

import functools
import http.server
import json
import os
import re
import shutil
import subprocess
import threading
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
AXE = Path(*(find_spec("axe_core_python").submodule_search_locations if find_spec("axe_core_python") else ["."]))
# Which rules of axe a page must keep; the theme's own landmarks and scrolling boxes are not ours to change.
RULES = [
    "color-contrast", "empty-table-header", "td-headers-attr", "th-has-data-cells", "image-alt", "svg-img-alt",
    "link-name", "button-name", "heading-order", "html-has-lang", "document-title", "list", "listitem",
]  # fmt: skip
# The theme fades from one set of colours to the other: halfway, on a busy machine, any contrast may be read.
SCRIPT = """<style>*, *::before, *::after { transition: none !important; animation: none !important }</style>
<script src="/axe.min.js"></script><script>
addEventListener("load", async () => {
  const told = {}, settings = {runOnly: RULES, resultTypes: ["violations", "incomplete"]};
  for (const theme of ["light", "dark"]) {
    document.documentElement.dataset.theme = theme;
    await new Promise(then => setTimeout(then, 100));
    const found = await axe.run(document, settings);
    // An empty header is something that axe asks to have looked at; it does not know that MathML is read aloud.
    const empty = found.incomplete.filter(one => one.id == "empty-table-header");
    for (const one of empty)
      one.nodes = one.nodes.filter(node => !document.querySelector(node.target[0]).querySelector("math"));
    const moving = document.getAnimations().map(one => `moving: ${one.effect.target.outerHTML.slice(0, 300)}`);
    told[theme] = [...moving, ...found.violations, ...empty].flatMap(one => one.nodes.map(
      node => `${one.id}: ${node.html.slice(0, 300)} (${node.failureSummary})`));
  }
  const element = document.createElement("script");
  element.type = "application/json";
  element.id = "axe-found";
  element.textContent = JSON.stringify(told);
  document.body.append(element);
});</script></body>""".replace("RULES", json.dumps(RULES))


class Pages(http.server.SimpleHTTPRequestHandler):
    """Serves a folder of pages, each with axe and what runs it at its end."""

    def do_GET(self):
        path = Path(self.directory, self.path.split("?")[0].lstrip("/"))
        if path.name == "axe.min.js":
            return self.answer((AXE / "axe.min.js").read_bytes(), "text/javascript")
        if path.suffix == ".html" and path.exists():
            return self.answer(path.read_text().replace("</body>", SCRIPT).encode(), "text/html; charset=utf-8")
        return super().do_GET()

    def answer(self, body, kind):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *about):
        pass


def violations(folder, page):
    """Return what axe finds on a page, by theme, as sentences."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    asked = [
        CHROMIUM, "--headless", "--disable-gpu", "--disable-background-networking", "--window-size=1280,900",
        *(["--no-sandbox"] if os.getuid() == 0 else []), "--virtual-time-budget=30000", "--dump-dom",
        f"http://127.0.0.1:{server.server_port}/{page}",
    ]  # fmt: skip
    try:
        shown = subprocess.run(asked, capture_output=True, text=True, timeout=300).stdout
    finally:
        server.shutdown()
    found = re.search(r'id="axe-found">(.*?)</script>', shown, re.DOTALL)
    assert found, f"axe did not end on {page}"
    return json.loads(found[1])


pytestmark = pytest.mark.replay  # of what `make book` has built
needed = pytest.mark.skipif(
    not (CHROMIUM and (AXE / "axe.min.js").exists()), reason="Chromium is not here, or the package axe-core-python"
)
built = [str(path.relative_to(HTML)) for path in [*HTML.glob("*.html"), *HTML.glob("notebooks/*.html")]]
PAGES = sorted(set(built) - {"genindex.html", "search.html"}) or ["index.html"]


@needed
@pytest.mark.skipif(not (HTML / "index.html").exists(), reason="the book is not built: run `make book` first")
@pytest.mark.parametrize("page", PAGES)
def test_a_page_can_be_read_by_everybody(page):
    for theme, found in violations(HTML, page).items():
        assert not found, f"{page}, {theme}: {found[:3]}"


@needed
def test_faint_text_and_a_header_without_a_name_are_found(tmp_path):
    (tmp_path / "bad.html").write_text(
        "<!DOCTYPE html><html lang='en'><head><title>t</title></head><body><main><p style='color:#ccc;background:#fff'>"
        "faint</p><table><tr><th></th><th>b</th></tr><tr><td>1</td><td>2</td></tr></table></main></body></html>"
    )
    for found in violations(tmp_path, "bad.html").values():
        assert {"color-contrast", "empty-table-header"} <= {one.split(":")[0] for one in found}


@needed
def test_colours_that_fade_into_one_another_are_read_at_their_end(tmp_path):
    (tmp_path / "fading.html").write_text(
        "<!DOCTYPE html><html lang='en'><head><title>t</title><style>p { transition: all 60s linear -30s; color: #000; "
        "background: #fff } [data-theme='dark'] p { color: #fff; background: #000 }</style></head>"
        "<body><main><p>grey on grey halfway</p></main></body></html>"
    )
    assert violations(tmp_path, "fading.html") == {"light": [], "dark": []}
