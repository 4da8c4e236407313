"""Reports as a browser lays them out: nothing is wider than the window, at a desk's width and at a phone's."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from scenarios.engine.definition import load
from scenarios.engine.execute import Order, execute
from scenarios.engine.folder import conclude, prepare
from scenarios.engine.parameters import Value

WIDTHS = (390, 1280)
SMALL: dict[str, dict[str, Value]] = {
    "impaired": {"size": 30_000},
    "linkability": {"sessions": 3},
    "blind-injection": {"trials": 10, "packets": 100},
}
"""Between them they have every kind of figure, the widest tables and the largest numbers."""

PROBE = """<!doctype html><body>{frames}<script>onload = () => {{
  const told = [...document.querySelectorAll("iframe")].map(frame => {{
    const page = frame.contentDocument, root = page.documentElement, outside = [];
    for (const picture of page.querySelectorAll("svg")) {{
      const box = picture.getBoundingClientRect();
      if (box.width) for (const text of picture.querySelectorAll("text")) {{
        const at = text.getBoundingClientRect();
        if (at.right > box.right + 2 || at.left < box.left - 2) outside.push(text.textContent);
      }}
    }}
    const shown = [...page.querySelectorAll("svg")].filter(each => each.getBoundingClientRect().width).length;
    return {{name: frame.dataset.name, width: frame.clientWidth, needs: root.scrollWidth, has: root.clientWidth, outside, shown}};
  }});
  document.body.innerHTML = "<pre></pre>";
  document.body.firstChild.textContent = JSON.stringify(told);
}}</script>"""


def laid_out(pages: dict[str, Path], folder: Path) -> list[dict[str, Any]]:
    """What a browser says of each page at each width."""
    frames = "".join(
        f'<iframe data-name="{name}" src="file://{path}" style="width:{width}px;height:2000px;border:0"></iframe>'
        for name, path in pages.items()
        for width in WIDTHS
    )
    probe = folder / "probe.html"
    probe.write_text(PROBE.format(frames=frames), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += [
        "--disable-background-networking",
        "--allow-file-access-from-files",
        f"--user-data-dir={folder}/browser",
    ]
    command += ["--window-size=1400,2000", "--virtual-time-budget=60000", "--dump-dom", f"file://{probe}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r"<pre>(.*?)</pre>", done.stdout, flags=re.DOTALL)
    assert found is not None, done.stderr
    told = json.loads(html.unescape(found[1]))
    assert isinstance(told, list)
    return told


@pytest.mark.real("chromium")
def test_reports_fit_a_desk_and_a_phone(tmp_path: Path) -> None:
    pages = {}
    for name, values in SMALL.items():
        found = load(name)
        folder = tmp_path / name
        prepare(folder)
        outcome = execute(found, Order(found.source, found.values(values, quick=True), 1, "sim", folder))
        conclude(outcome)
        pages[name] = folder / "report.html"
    # The probe has to be able to fail: a page that is too wide is found out.
    pages["too wide"] = tmp_path / "wide.html"
    pages["too wide"].write_text("<!doctype html><div style='width:1500px'>wide</div><svg></svg>", encoding="utf-8")
    told = laid_out(pages, tmp_path)
    assert [(each["name"], each["width"]) for each in told] == [(name, width) for name in pages for width in WIDTHS]
    for each in told:
        if each["name"] == "too wide":
            assert each["needs"] > each["has"]
            continue
        assert each["needs"] <= each["has"], each
        assert each["outside"] == [], each
        assert each["shown"] >= 3, each
