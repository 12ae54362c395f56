"""The main rows as a picture: an SVG file without libraries, scripts or fonts of its own."""

from __future__ import annotations

import textwrap
from xml.sax.saxutils import escape

# (shape, type, beginning of the row's name) from top to bottom; what was not measured is left out.
MAIN_ROWS = [
    ("llama-1b", "Q4_K_M", "pp512"), ("llama-1b", "Q8_0", "pp512"), ("llama-1b", "Q4_0", "pp512"),
    ("llama-1b", "Q6_K", "pp512"), ("llama-1b", "F16", "pp512"), ("llama-8b", "Q4_K_M", "pp512"),
    ("llama-1b", "Q4_K_M", "tg128"), ("llama-1b", "Q8_0", "tg128"), ("llama-1b", "Q4_0", "tg128"),
    ("llama-1b", "Q6_K", "tg128"), ("llama-1b", "F16", "tg32"), ("llama-8b", "Q4_K_M", "tg64"),
    ("llama-1b", "Q4_K_M", "tg32 x 8"), ("llama-1b", "Q4_K_M", "tg32 x 32"),
]
SECTIONS = (("prefill", "Prefill"), ("decode", "Decode, one sequence"), ("batch", "Decode, sequences together"))
# Letters of a caption that fit on a line.
CAPTION = 125
WIDTH, LEFT, RIGHT, BAR, ROW, TITLE, SECTION = 860, 215, 175, 13, 40, 78, 30
STYLE = """
  .card { fill: #ffffff; stroke: #d0d7de; } .text { fill: #1f2328; } .faint { fill: #59636e; }
  .ours { fill: #0969da; } .theirs { fill: #9aa4af; } .line { stroke: #9aa4af; }
  @media (prefers-color-scheme: dark) {
    .card { fill: #0d1117; stroke: #3d444d; } .text { fill: #f0f6fc; } .faint { fill: #9198a1; }
    .ours { fill: #4493f8; } .theirs { fill: #656c76; } .line { stroke: #656c76; }
  }
  text { font-family: system-ui, -apple-system, "Segoe UI", Helvetica, Arial, sans-serif; font-size: 13px; }
"""


def label(row, with_size):
    """What a reader who has seen no benchmark understands, under the title of its section."""
    size = row["shape"].removeprefix("llama-").upper() if row["shape"] != "given" else ""
    name = f"{size} {row['type']}".strip()
    if row["n_seqs"] > 1:
        return f"{name}, {row['n_seqs']} sequences"
    if row["depth"]:
        return f"{name}, after {row['depth']}"
    return f"{name}, {row['n_tokens']} tokens" if row["kind"] == "prefill" and with_size else name


def section_of(row):
    return "batch" if row["n_seqs"] > 1 else row["kind"]


def chosen(rows):
    """The rows of the picture: those of MAIN_ROWS with the most threads, or, if none was measured, all that compare."""
    most = max((row["threads"] for row in rows), default=0)
    usable = [row for row in rows if row["kind"] != "load" and not (row["busy"] or row["base"] or row["isa"])
              and row["threads"] == most and row["summary"][0]["ratio"] is not None]
    key = lambda row: (row["shape"], row["type"], row["what"])
    return sorted((row for row in usable if key(row) in MAIN_ROWS), key=lambda r: MAIN_ROWS.index(key(r))) or usable


def figure(value):
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def svg(rows, title, caption):
    """Two bars per row; the better peer's is as long everywhere, so that Ingle's shows the ratio. None without rows."""
    rows = chosen(rows)
    if not rows:
        return None
    scale = (WIDTH - LEFT - RIGHT) / max(1.0, *(row["summary"][0]["ratio"] for row in rows))
    parts, y = [], TITLE

    def text(x, y, content, kind="text", anchor="start", extra=""):
        start = f'<text x="{x:.0f}" y="{y:.0f}" class="{kind}" text-anchor="{anchor}"{extra}>'
        parts.append(f"{start}{escape(content)}</text>")

    def bar(y, length, kind):
        parts.append(f'<rect x="{LEFT}" y="{y}" width="{max(1.0, length):.1f}" height="{BAR}" rx="2" class="{kind}"/>')

    for key, name in SECTIONS:
        members = [row for row in rows if section_of(row) == key]
        if not members:
            continue
        sizes = {row["n_tokens"] for row in members}
        common = key == "prefill" and len(sizes) == 1
        text(24, y + 16, f"{name}, {sizes.pop()} tokens" if common else name, extra=' font-weight="600"')
        y += SECTION
        for row in members:
            s = row["summary"][0]
            text(LEFT - 12, y + BAR + 5, label(row, with_size=not common), anchor="end")
            bar(y, s["ratio"] * scale, "ours")
            bar(y + BAR + 2, scale, "theirs")
            text(LEFT + s["ratio"] * scale + 8, y + BAR - 2, f"{figure(s['ingle'])} tokens/s, {s['ratio']:.2f}×",
                 extra=' font-weight="600"')
            text(LEFT + scale + 8, y + 2 * BAR + 1, f"{figure(s['peer'])} ({s['peer_name']})", "faint")
            y += ROW
        y += 6
    caption = [part for line in caption for part in textwrap.wrap(line, CAPTION)]
    height = y + 24 + 18 * len(caption)
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            f'role="img" aria-label="{escape(title, {chr(34): "&quot;"})}">', f"<style>{STYLE}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1}" rx="8" class="card"/>']
    body, parts = parts, []
    text(24, 34, title, extra=' style="font-size: 18px" font-weight="600"')
    parts.append(f'<rect x="24" y="47" width="{BAR}" height="{BAR}" rx="2" class="ours"/>')
    text(43, 58, "Ingle")
    parts.append(f'<rect x="94" y="47" width="{BAR}" height="{BAR}" rx="2" class="theirs"/>')
    text(113, 58, "the fastest of the others, named in brackets; each pair of bars has a scale of its own")
    for i, line in enumerate(caption):
        text(24, y + 18 * (i + 1), line, "faint")
    return "\n".join([*head, *parts, *body, "</svg>", ""])
