#!/usr/bin/env python3
"""A screen as tmux captures it with `capture-pane -e`, as a small SVG.

    tmux capture-pane -p -e | python3 tests/terminal/svg.py COLUMNS > screen.svg
"""

import re
import sys
import unicodedata
from html import escape

CELL_W, CELL_H, SIZE = 8.4, 18, 14
COLOURS = {31: "#c0392b", 32: "#2e7d32", 33: "#9a6700", 34: "#1f5fbf", 35: "#8e3fa8", 36: "#0b7285"}
STYLE = {1: "font-weight:bold", 2: "opacity:.6", 3: "font-style:italic", 4: "text-decoration:underline",
         9: "text-decoration:line-through"}
SEQUENCE = re.compile(r"\x1b\[([0-9;]*)m|\x1b\([A-Z]|[\x0e\x0f]")


def width(c):
    """Columns of a character."""
    if unicodedata.combining(c) or c in "\u200d\ufe0f":
        return 0
    return 2 if unicodedata.east_asian_width(c) in "WF" else 1


def columns_of(line, mark):
    """The columns at which a character stands."""
    at, found = 0, []
    for c in line:
        if c == mark:
            found.append(at)
        at += width(c)
    return found


def runs(line, state):
    """(column, text, codes) of one style each; `state` goes from line to line."""
    at, place, found = 0, 0, []
    while place < len(line):
        match = SEQUENCE.match(line, place)
        if match:
            if match.group(1) is not None:
                for code in (int(n or 0) for n in match.group(1).split(";")):
                    if code == 0:
                        state.clear()
                    elif code == 39:
                        state -= set(COLOURS)
                    elif code == 22:
                        state -= {1, 2}
                    elif code in (23, 24, 29):
                        state -= {code - 20}
                    else:
                        state.add(code)
            place = match.end()
            continue
        c = line[place]
        key = frozenset(state)
        # Wide characters stand alone, so that each is where it belongs whatever the font.
        if found and found[-1][2] == key and width(c) == 1 and all(width(d) == 1 for d in found[-1][1]):
            found[-1][1] += c
        else:
            found.append([at, c, key])
        at += width(c)
        place += 1
    return found


def picture(screen, columns):
    lines = screen.rstrip("\n").split("\n")
    state, texts = set(), []
    for row, line in enumerate(lines):
        for at, text, codes in runs(line, state):
            if not text.strip():
                continue
            colour = next((COLOURS[c] for c in codes if c in COLOURS), None)
            style = ";".join([STYLE[c] for c in sorted(codes) if c in STYLE] + ([f"fill:{colour}"] if colour else []))
            style = f' style="{style}"' if style else ""
            x, y = 10 + at * CELL_W, 10 + (row + 1) * CELL_H - 5
            length = sum(width(c) for c in text) * CELL_W
            texts.append(f'<text x="{x:.1f}" y="{y}" textLength="{length:.1f}" xml:space="preserve"{style}>{escape(text)}</text>')
    w, h = 20 + columns * CELL_W, 20 + len(lines) * CELL_H
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{w:.0f}" height="{h}" viewBox="0 0 {w:.0f} {h}">\n'
        f'<rect width="100%" height="100%" rx="6" fill="#fafafa" stroke="#ccc"/>\n'
        f'<g font-family="DejaVu Sans Mono, Menlo, Consolas, monospace" font-size="{SIZE}" fill="#222">\n'
        + "\n".join(texts) + "\n</g>\n</svg>\n"
    )


if __name__ == "__main__":
    sys.stdout.write(picture(sys.stdin.read(), int(sys.argv[1])))
