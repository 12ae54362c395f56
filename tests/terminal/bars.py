"""Scenes of the progress bars: pull, push, create, export, import and verify, against the hub of the tests."""

import json
import os
import re
import shlex
import struct
import subprocess
import time
from pathlib import Path

import svg

HERE = Path(__file__).resolve().parent
SHIPPED = HERE.parent.parent / "models" / "ingle-tiny.gguf"
SHARDS = ["Ingle-Example-Instruct-Q4_K_M-0000%d-of-00002.gguf" % n for n in (1, 2)]
MB = 1_000_000
# A pull of so many bytes goes in several streams, and is slow enough to be looked at.
SHARD_BYTES, PAUSE_MS = 40 * MB, 40
BAR = re.compile(r"[\u2501\u2500]{10}")


def pair(key, kind, value):
    """A key and its value as GGUF writes them."""
    return struct.pack("<Q", len(key)) + key + struct.pack("<I", kind) + value


def part(i, whole):
    """A part of a split model: the first has all tensors, the second none. Both are as large as SHARD_BYTES."""
    magic, version, n_tensors, n_pairs = struct.unpack_from("<4sIQQ", whole)
    pairs = (pair(b"split.no", 2, struct.pack("<H", i)) + pair(b"split.count", 2, struct.pack("<H", 2))
             + pair(b"split.tensors.count", 5, struct.pack("<i", n_tensors)))
    if i == 1:
        return (struct.pack("<4sIQQ", magic, version, 0, 3) + pairs).ljust(SHARD_BYTES, b"\0")
    # What is put in keeps the tensors aligned.
    empty = len(pairs + pair(b"padding", 8, struct.pack("<Q", 0)))
    n = -empty % 32
    pairs += pair(b"padding", 8, struct.pack("<Q", n) + b"." * n)
    return (struct.pack("<4sIQQ", magic, version, n_tensors, n_pairs + 4) + pairs + whole[24:]).ljust(SHARD_BYTES, b"\0")


class Hub:
    """The hub of the tests, with a model in two files and one of a registry in several layers."""

    def __init__(self, program, folder):
        repo = Path(folder) / "repo"
        repo.mkdir(parents=True)
        shipped = SHIPPED.read_bytes()
        for i, name in enumerate(SHARDS):
            (repo / name).write_bytes(part(i, shipped))
        licence = Path(folder) / "licence"
        licence.write_text("You may do what you like. " * 2000)
        parameters = Path(folder) / "parameters"
        parameters.write_text('{"temperature": 0.5}')
        self.process = subprocess.Popen(
            [program, "--repo", f"example/Ingle-Example-GGUF={repo}", "--model", f"example/ingle:tiny={SHIPPED}",
             "--layer", f"license={licence}", "--layer", f"params={parameters}", "--slow", str(PAUSE_MS)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.url = json.loads(self.process.stdout.readline())["hub"]
        self.authority = self.url.split("://")[1]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def check(condition, what, screen):
    if not condition:
        raise AssertionError(f"{what}\n--- the screen:\n{screen}")


def bars(screen, name):
    """The lines that are about this file, whose name may be cut in its middle."""
    def is_about(line):
        shown = line.split("  ")[0].split(" ")[0]
        head, _, tail = shown.partition("\u2026")
        cut = "\u2026" in shown and name.startswith(head) and name.endswith(tail) and head
        return shown == name or cut
    return [line for line in screen.split("\n") if is_about(line) and "%" in line]


def all_fit(t, screen):
    # What is said in words may go on in the next line; a bar that did would be left behind.
    for line in (line for line in screen.split("\n") if re.search(r"\d%", line)):
        width = sum(svg.width(c) for c in line)
        check(width < t.columns, f"a line of {width} columns in a window of {t.columns}", screen)


def has_what_fits(t, line, screen):
    """Percent always; time left, amounts, rate and bar as there is room."""
    check(re.search(r" \d+%", line), "no percent", screen)
    check(re.search(r"(\d+s|--)$", line), "no time left", screen)
    check(bool(re.search(r"\d [kM]B/\S+ MB", line)) == (t.columns >= 40), "the amounts", screen)
    check(bool(re.search(r"\d [kM]?B/s", line)) == (t.columns >= 60), "the rate", screen)
    check(bool(BAR.search(line)) == (t.columns >= 80), "the bar", screen)


def moving(name):
    def found(screen):
        lines = bars(screen, name)
        return bool(lines) and re.search(r" ([1-9]|[1-9]\d)%", lines[-1]) and re.search(r"\ds$", lines[-1])
    return found


def scene_pull(t):
    """A model in two files, in several streams; the window changes in the middle."""
    screen = t.wait("the first file moves", moving(SHARDS[0]))
    all_fit(t, screen)
    has_what_fits(t, bars(screen, SHARDS[0])[-1], screen)
    columns, rows = t.columns, t.rows
    for size in [(columns // 2, rows), (columns + 30, rows), (columns, rows)]:
        t.resize(*size)
        time.sleep(0.6)
        screen = t.screen()
        all_fit(t, screen)
        check(len(bars(screen, SHARDS[0])) == 1, f"one line for the file at {size[0]} columns", screen)
    screen = t.wait("the second file moves", moving(SHARDS[1]))
    t.capture = t.screen(colours=True)
    screen = t.wait_for("[ended with 0]")
    all_fit(t, screen)
    for name in SHARDS:
        lines = bars(screen, name)
        # In narrow windows the two names look alike.
        n = 1 if t.columns >= 80 else len(SHARDS)
        check(len(lines) == n and all("100%" in line for line in lines), f"one line in the end for {name}", screen)
        check(not re.search(r"/s|--", lines[0]), "no rate in the end", screen)
    lines = screen.split("\n")
    check(lines[-2] == "success" and lines[-1].startswith("[ended"), "success comes last", screen)
    return screen


def scene_resume(t):
    """Ctrl-C, and the same command once more: it goes on where it was."""
    def far(screen):
        lines = bars(screen, SHARDS[0])
        return bool(lines) and re.search(r" ([6-9]\d)%", lines[-1])
    t.wait("most of a file is there", far)
    t.press("C-c")
    screen = t.wait_for("[first ended with 130]")
    lines = screen.split("\n")
    at = next(i for i, line in enumerate(lines) if line.startswith("[first ended"))
    words = " ".join(line.strip() for line in lines[:at])
    check("stopped: what has come is kept" in words.replace("  ", " "), "how to go on is not said", screen)
    before = bars("\n".join(lines[:at]), SHARDS[0])
    check(len(before) == 1, "the bar stands once", screen)
    def again(screen):
        return bars(screen.split("[first ended")[1], SHARDS[0]) and "%" in screen.split("[first ended")[1]
    screen = t.wait("it goes on", again)
    line = bars(screen.split("[first ended")[1], SHARDS[0])[-1]
    check(int(re.search(r"(\d+)%", line).group(1)) >= 15, "it begins anew", screen)
    time.sleep(0.5)
    t.capture = t.screen(colours=True)
    return t.wait_for("[ended with 0]")


def scene_registry(t):
    """A model of a registry, in layers; then it is sent back under another name."""
    screen = t.wait_for("[ended with 0]")
    all_fit(t, screen)
    lines = screen.split("\n")
    whole = [line for line in lines if "100%" in line]
    check(len(whole) >= 6, "a line for each layer, there and back", screen)
    check(lines.count("success") == 2, "both succeed", screen)
    check("\u2026" not in screen or t.columns < 80, "nothing is cut", screen)
    return screen


def scene_work(t):
    """Files go into the store, into a bundle and out of it; nothing of the bars is left."""
    seen = set()
    def ended(screen):
        for word in ["copying", "checking", "writing", "importing", "verifying"]:
            lines = [line for line in screen.split("\n") if line.startswith(word + " ")]
            if lines and "%" in lines[-1]:
                seen.add(word)
                all_fit(t, "\n".join(lines))
                if word == "importing":
                    t.capture = t.screen(colours=True)
        return "[ended with 0]" in screen
    screen = t.wait("the end", ended)
    check({"writing", "importing", "verifying"} <= seen, f"bars of {seen} only", screen)
    left = [line for line in screen.split("\n") if re.search(r"\d%", line) or BAR.search(line)]
    check(not left, f"left behind: {left}", screen)
    check("ok    big:latest" in screen, "what is there is verified", screen)
    return screen


def scene_plain(t):
    """Into a pipe there are words, and with NO_COLOR no colours."""
    t.wait("words", lambda screen: re.search(r"00001-of-00002.gguf: \d+ %, ", screen))
    screen = t.wait_for("[first ended with 0]")
    check("\u2501" not in screen.split("[first ended")[0], "a bar in a pipe", screen)
    check("bytes of escapes: 0" in screen, "control sequences in a pipe", screen)
    t.wait("a bar", lambda screen: BAR.search(screen.split("[first ended")[1]) or t.columns < 80)
    coloured = t.screen(colours=True).split("[first ended")[1]
    check("\x1b[" not in coloured, "colours in spite of NO_COLOR", coloured)
    return t.wait_for("[ended with 0]")


def scenes(ingle, home, hub):
    """Name to (scene, command, environment, widths)."""
    store = Path(home) / "store"
    env = {"INGLE_MODELS": str(store), "HF_ENDPOINT": hub.url, "OLLAMA_MODELS": "", "HF_HOME": "", "INGLE_CONFIG": "/dev/null",
           "INGLE_PRIVATE_HOSTS": "127.0.0.1"}
    program = shlex.quote(ingle)
    shell = lambda line: ["sh", "-c", "trap : INT; " + line]  # noqa: E731
    name = "hf.co/example/Ingle-Example-GGUF:Q4_K_M"
    tiny, mine = f"{hub.authority}/example/ingle:tiny", f"{hub.authority}/me/ingle:mine"
    big = Path(home) / "big.gguf"
    if not big.exists():
        big.write_bytes(SHIPPED.read_bytes())
        os.truncate(big, 400 * MB)
    (Path(home) / "Modelfile").write_text("FROM ./big.gguf\n")
    fresh = f"rm -rf {shlex.quote(str(store))}; "
    pull = f"{program} pull {name}"
    work = (f"cd {shlex.quote(home)}; {program} create big -f Modelfile && {program} export big -o bundle.ingle && "
            f"INGLE_MODELS=./other {program} import --allow-unsigned bundle.ingle && {program} verify big; "
            "n=$?; rm -rf bundle.ingle other; exit $n")
    escapes = "tee pulled.log; printf 'bytes of escapes: '; tr -cd '\\033' < pulled.log | wc -c"
    plain = (f"cd {shlex.quote(home)}; {fresh}{{ {pull} 2>&1; echo \"[first ended with $?]\"; }} | {{ {escapes}; }}; {fresh}"
             f"NO_COLOR=1 {pull}")
    return {
        "pull": (scene_pull, shell(fresh + pull), env, [20, 40, 80, 200]),
        "resume": (scene_resume, shell(f"{fresh}{pull}; echo \"[first ended with $?]\"; {pull}"), env, [80, 200]),
        "registry": (scene_registry,
                     shell(f"{fresh}{program} pull {tiny} && {program} cp {tiny} {mine} && {program} push {mine}"), env, [40, 80, 200]),
        "work": (scene_work, shell(fresh + work), env, [40, 80]),
        "plain": (scene_plain, shell(plain), env, [80]),
    }
