"""The hub of the tests, as a program.

INGLE_HUB   the program (cargo build -p ingle-testkit --example hub)
"""

import contextlib
import hashlib
import json
import os
import subprocess
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[3] / "models" / "ingle-tiny.gguf"


def sha256(path):
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


class Hub:
    """The hub's program, which takes orders while it serves."""

    def __init__(self, *args):
        self.process = subprocess.Popen([os.environ["INGLE_HUB"], *args], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        text=True)
        self.url = json.loads(self.process.stdout.readline())["hub"]
        # Host and port: what stands in names of its registry.
        self.registry = self.url.removeprefix("http://")

    def order(self, text):
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    @contextlib.contextmanager
    def fault(self, text):
        assert self.order(f"fault {text}") == "ok"
        try:
            yield
        finally:
            assert self.order("heal") == "ok"

    def requests(self):
        return json.loads(self.order("requests"))

    def close(self):
        self.process.stdin.close()
        self.process.wait(10)
