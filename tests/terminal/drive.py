#!/usr/bin/env python3
"""Drives `ingle run` in a real terminal (tmux), looks at the screen, and says what is wrong with it.

    cargo build --bin ingle --example hub
    python3 tests/terminal/drive.py --ingle target/debug/ingle [--save docs/terminal] [SCENE...]

Each scene of the chat runs at 80 and at 200 columns, those of the progress bars (bars.py) at 20 and 40 too, with a home
of their own. The hub of the tests (--hub) serves the models that are pulled. Answers come from the model that ships with Ingle; where
a scene needs a certain text, `--choice` makes the model write it. With --save the screens go to files, as text with
colours and as SVG. Exits with 0 if all is well, 1 if something is wrong, 77 if there is no tmux.
"""

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import termios
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
import bars  # noqa: E402
import svg  # noqa: E402

PATIENCE_S = 120
SIZES = [(80, 40), (200, 50)]
PROMPT = ">>> "


class Wrong(Exception):
    """The screen is not as it should be."""


class Terminal:
    """A program in a window of its own."""

    n_started = 0

    def __init__(self, command, size, home, env=()):
        # A server of its own: one that is just ending takes no new window.
        Terminal.n_started += 1
        self.socket = f"ingle-test-{os.getpid()}-{Terminal.n_started}"
        self.columns, self.rows = size
        # A screen in the middle of things, where that is what is worth seeing.
        self.capture = None
        settings = {"HOME": home, "TERM": "tmux-256color", "LANG": "C.UTF-8", "PS1": "$ ", **dict(env)}
        for name in ("NO_COLOR", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME", "COLUMNS", "LINES", "EDITOR", "VISUAL"):
            if name not in settings:
                settings[name] = None
        pairs = [f"{k}={v}" for k, v in settings.items() if v is not None]
        unset = [w for k, v in settings.items() if v is None for w in ("-u", k)]
        # Ctrl-C goes to the shell too, which has to stay.
        line = "trap : INT; " + shlex.join(["env", *unset, *pairs, *command]) + "; echo \"[ended with $?]\"; sleep 1000"
        self.tmux("new-session", "-d", "-x", str(self.columns), "-y", str(self.rows), "-s", "t", "sh", "-c", line)
        self.tmux("set-option", "-g", "remain-on-exit", "on")

    def tmux(self, *args):
        done = subprocess.run(["tmux", "-u", "-L", self.socket, "-f", "/dev/null", *args], capture_output=True, text=True)
        if done.returncode != 0:
            raise Wrong(f"tmux {args[0]}: {done.stderr.strip()}")
        return done.stdout

    def type(self, text):
        self.tmux("send-keys", "-t", "t", "-l", text)

    def press(self, *keys):
        self.tmux("send-keys", "-t", "t", *keys)

    def paste(self, text):
        self.tmux("set-buffer", "-b", "p", text)
        self.tmux("paste-buffer", "-p", "-b", "p", "-t", "t")

    def resize(self, columns, rows):
        self.columns, self.rows = columns, rows
        self.tmux("resize-window", "-t", "t", "-x", str(columns), "-y", str(rows))

    def screen(self, colours=False, history=True):
        args = ["capture-pane", "-p", "-t", "t"] + (["-e"] if colours else []) + (["-S", "-"] if history else [])
        return self.tmux(*args).rstrip("\n")

    def title(self):
        return self.tmux("display-message", "-p", "-t", "t", "#{pane_title}").strip()

    def reads_lines(self):
        """Whether the terminal is as shells leave it to programs."""
        tty = os.open(self.tmux("display-message", "-p", "-t", "t", "#{pane_tty}").strip(), os.O_RDWR | os.O_NOCTTY)
        try:
            iflag, _, _, lflag = termios.tcgetattr(tty)[:4]
        finally:
            os.close(tty)
        wanted = termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN
        return bool(iflag & termios.ICRNL) and lflag & wanted == wanted

    def wait(self, what, found):
        """Until `found(screen)`."""
        end = time.time() + PATIENCE_S
        while time.time() < end:
            screen = self.screen()
            if found(screen):
                return screen
            time.sleep(0.1)
        raise Wrong(f"nothing of the kind came: {what}\n{self.screen()}")

    def wait_for(self, text):
        return self.wait(f"`{text}`", lambda screen: text in screen)

    def wait_for_prompt(self, n):
        """Until the n-th prompt is there, with nothing typed behind it but the hint."""
        def is_there(screen):
            prompts = [line for line in screen.split("\n") if line.startswith(PROMPT.strip())]
            last = screen.rstrip().split("\n")[-1]
            return len(prompts) >= n and last.startswith(PROMPT.strip())
        return self.wait(f"prompt {n}", is_there)

    def end(self):
        subprocess.run(["tmux", "-L", self.socket, "kill-server"], capture_output=True)


def expect(condition, what, screen):
    if not condition:
        raise Wrong(f"{what}\n--- the screen:\n{screen}")


def lines_fit(screen, columns):
    for line in screen.split("\n"):
        width = sum(svg.width(c) for c in line)
        expect(width <= columns, f"a line of {width} columns", screen)


def scene_chat(t):
    """A first conversation with the model that ships."""
    t.wait_for_prompt(1)
    expect("Send a message (/? for help)" in t.screen(), "the hint is missing", t.screen())
    t.type("Hello! What can you do?")
    t.press("Enter")
    screen = t.wait_for_prompt(2)
    lines_fit(screen, t.columns)
    return screen


def scene_document(t):
    """Markdown as it should look."""
    t.wait_for_prompt(1)
    t.type("Tell me about sorting.")
    t.press("Enter")
    screen = t.wait_for_prompt(2)
    lines_fit(screen, t.columns)
    for text in ["Sorting, in short", "A stable sort", "• merge sort: O(n log n)", "  ◦ not stable", "1. read the input",
                 "☑ tested", "☐ measured", "┌── rust ─", "    n.sort();", "insertion", "│ Measure before you choose",
                 "the book (https://example.com/sorting)"]:
        expect(text in screen, f"`{text}` is missing", screen)
    for mark in ["**", "```", "~~", "|--", "[x]", "# Sorting"]:
        expect(mark not in screen, f"`{mark}` is shown as it was written", screen)
    table = [line for line in screen.split("\n") if "│" in line and ("yes" in line or "no " in line)]
    places = {tuple(svg.columns_of(line, "│")) for line in table}
    expect(len(places) == 1, f"the table's columns do not stand below each other: {places}", screen)
    coloured = t.screen(colours=True)
    expect(re.search(r"\x1b\[[0-9;]*1[;m].*stable", coloured), "bold text is not bold", coloured)
    expect(re.search(r"\x1b\[[0-9;]*34[;m][^\n]*let", coloured), "keywords have no colour", coloured)
    return screen


def scene_commands(t):
    """Slash commands."""
    n = 1
    for line, expected in [
        ("/?", "/regenerate"),
        ("/show info", "architecture"),
        ("/set parameter temperature 0.25", ""),
        ("/show parameters", "temperature         0.25"),
        ("/set parameter temperature hot", "is not a finite number"),
        ("/set nonsense", "nothing to set called `nonsense`"),
        ("/set system Answer with one word.", ""),
        ("/show system", "Answer with one word."),
        ("/show modelfile", "PARAMETER temperature 0.25"),
        ("/save ~/first.json", "(written to ~/first.json: /load ~/first.json goes on with it)"),
        ("/save first", "created new model 'first:latest'"),
        ("/clear", "(started over)"),
        ("/load ~/first.json", "(going on after 1 messages"),
        ("/load first", "first:latest is ready"),
        ("/show parameters", "temperature         0.25"),
        ("/show system", "Answer with one word."),
        ("/show context", "of "),
        ("/undo", "nothing to take back"),
    ]:
        t.wait_for_prompt(n)
        t.type(line)
        t.press("Enter")
        n += 1
        screen = t.wait_for_prompt(n)
        expect(expected in screen, f"after `{line}`: `{expected}` is missing", screen)
    t.type("/bye")
    t.press("Enter")
    return t.wait_for("[ended with 0]")


def scene_keys(t):
    """Several lines, pasting, the user's editor, stopping, leaving."""
    t.wait_for_prompt(1)
    t.type("first line")
    t.press("C-j")
    t.type("second line")
    t.press("C-c")
    t.wait_for("(Ctrl-D or /bye leaves)")
    t.wait_for_prompt(2)
    t.paste("pasted one\npasted two\n")
    t.wait_for("pasted two")
    time.sleep(0.5)
    expect("stopped" not in t.screen() and t.screen().count(PROMPT.strip()) <= 3, "a paste was sent before Enter", t.screen())
    t.press("C-c")
    t.type('"""')
    t.press("Enter")
    t.type("in quotes")
    t.press("C-c")
    t.press("C-g")
    t.wait_for("written by the editor")
    t.press("C-c")
    t.type("/set parameter num_predict -1")
    t.press("Enter")
    time.sleep(0.5)
    t.type("Count for ever.")
    t.press("Enter")
    t.wait("an answer", lambda screen: len(screen.split("Count for ever.")[-1].strip()) > 100)
    t.type("typed meanwhile")
    time.sleep(0.5)
    t.press("C-c")
    screen = t.wait_for("(stopped)")
    answer = screen.split("Count for ever.")[-1].split("(stopped)")[0]
    expect("typed meanwhile" not in answer, "what is typed stands among the answer", screen)
    t.wait_for_prompt(1)
    t.press("C-u")
    t.type("/show transcript")
    t.press("Enter")
    screen = t.wait_for("## Answer")
    expect(len(screen.split("## Answer")[-1].strip()) > 50, "a stopped answer is not kept", screen)
    t.press("C-d")
    return t.wait_for("[ended with 0]")


def scene_ahead(t):
    """What is typed while an answer comes is sent line by line when it has come."""
    t.wait_for_prompt(1)
    t.type("Go on and on.")
    t.press("Enter")
    t.wait("an answer", lambda screen: len(screen.split("Go on and on.")[-1].strip()) > 80)
    t.type("/show context")
    t.press("Enter")
    t.paste("/system First this,\nthen that.")
    t.press("Enter")
    t.type("/show systen")
    t.press("BSpace")
    t.type("m")
    t.press("Enter")
    t.type("and so forth")
    t.wait("an end", lambda screen: "(cut at" in screen)
    screen = t.wait("what was begun", lambda screen: screen.rstrip().endswith(PROMPT + "and so forth"))
    answer, after = screen.split("(cut at")
    expect("/show" not in answer and "this," not in answer, "what is typed stands among the answer", screen)
    for text in [" tokens (", "First this,\nthen that.\n(started over)", PROMPT + "/show system\nFirst this,\nthen that.\n"]:
        expect(text in after, f"`{text}` is missing", screen)
    t.press("C-u")
    t.type("Once more.")
    t.press("Enter")
    t.wait("an answer", lambda screen: len(screen.split("Once more.")[-1].strip()) > 80)
    t.press("C-d")
    screen = t.wait_for("[ended with 0]")
    expect(t.reads_lines(), "the terminal is not as it was before", screen)
    return screen


def scene_hostile(t):
    """What a model writes cannot steer the terminal."""
    before = t.title()
    t.wait_for_prompt(1)
    t.type("Show me something.")
    t.press("Enter")
    screen = t.wait_for_prompt(2)
    expect("␛]0;stolen␇" in screen and "␛[2J" in screen, "control characters are not shown", screen)
    expect("before" in screen and "after" in screen, "text was wiped away", screen)
    expect(t.title() == before, f"the title is `{t.title()}` now", screen)
    return screen


def scene_resize(t):
    """The window changes while an answer comes."""
    t.wait_for_prompt(1)
    t.type("Go on and on.")
    t.press("Enter")
    t.wait("an answer", lambda screen: len(screen.split("Go on and on.")[-1].strip()) > 80)
    t.resize(50, 30)
    time.sleep(1)
    t.resize(t.columns + 20, 30)
    time.sleep(1)
    t.press("C-c")
    # A slow machine may have come to the end of the context by now.
    screen = t.wait("an end", lambda screen: "(stopped)" in screen or "(cut at" in screen)
    lines_fit(screen, t.columns)
    return screen


HOSTILE = "before\x1b]0;stolen\x07 \x1b[2J\x1b[H \r after"
LONG = ["--ignore-eos", "--temp", "0.8", "--seed", "1"]


def scenes(ingle, home):
    editor = Path(home) / "editor.sh"
    editor.write_text("#!/bin/sh\nprintf 'written by the editor' > \"$1\"\n")
    editor.chmod(0o755)
    document = (HERE / "document.md").read_text()
    return {
        "chat": (scene_chat, [ingle, "run", "--temp", "0", "-n", "200", "--nohistory"], {}),
        "document": (scene_document, [ingle, "run", "--choice", document], {}),
        "commands": (scene_commands, [ingle, "run"], {}),
        "keys": (scene_keys, [ingle, "run", *LONG], {"EDITOR": str(editor)}),
        "ahead": (scene_ahead, [ingle, "run", *LONG], {}),
        "hostile": (scene_hostile, [ingle, "run", "--choice", HOSTILE], {}),
        "resize": (scene_resize, [ingle, "run", *LONG], {}),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--ingle", default="target/debug/ingle")
    parser.add_argument("--hub", default="target/debug/examples/hub")
    parser.add_argument("--save", type=Path, help="folder for the screens")
    parser.add_argument("scene", nargs="*")
    args = parser.parse_args()
    if not shutil.which("tmux"):
        print("there is no tmux here")
        return 77
    ingle = str(Path(args.ingle).resolve())
    n_wrong = 0
    wanted = lambda name: not args.scene or name in args.scene  # noqa: E731
    for size in SIZES:
        with tempfile.TemporaryDirectory() as home:
            for name, (scene, command, env) in scenes(ingle, home).items():
                if wanted(name):
                    n_wrong += run(name, scene, Terminal(command, size, home, env), args.save)
    with tempfile.TemporaryDirectory() as home:
        hub = bars.Hub(str(Path(args.hub).resolve()), home)
        for name, (scene, command, env, widths) in bars.scenes(ingle, home, hub).items():
            for columns in widths if wanted(name) else []:
                n_wrong += run(name, scene, Terminal(command, (columns, 40), home, env), args.save)
        hub.end()
    return 1 if n_wrong else 0


def run(name, scene, terminal, folder):
    """1 if something is wrong, which is said."""
    started, columns = time.time(), terminal.columns
    try:
        scene(terminal)
        print(f"{name} at {columns}: as it should be ({time.time() - started:.1f} s)", flush=True)
        return 0
    except (Wrong, AssertionError) as wrong:
        print(f"{name} at {columns}: {wrong}", flush=True)
        return 1
    finally:
        if folder and terminal.capture is not False:
            save(folder / f"{name}-{columns}", terminal)
        terminal.end()


def save(path, terminal):
    path.parent.mkdir(parents=True, exist_ok=True)
    coloured = terminal.capture or terminal.screen(colours=True)
    # The notice of the shell that the program ran in is no part of it.
    coloured = coloured.split("[ended with")[0].rstrip() + "\n"
    path.with_suffix(".txt").write_text(re.sub(r"\x1b\[[0-9;]*m|\x1b\([A-Z]|[\x0e\x0f]", "", coloured))
    path.with_suffix(".svg").write_text(svg.picture(coloured, terminal.columns))


if __name__ == "__main__":
    sys.exit(main())
