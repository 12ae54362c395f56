"""Servers that tests start themselves, each with a store of its own.

INGLE_BINARY   the program
"""

import contextlib
import os
import re
import subprocess

BINARY = os.environ.get("INGLE_BINARY", "")


@contextlib.contextmanager
def serving(root, env=os.environ, more=("--offline",)):
    """A server of the store in this folder, without a key, which asks nobody else: its address."""
    args = ["serve", "--port", "0", "--store-dir", root, "--ollama-models", "", "--hf-home", "", "-c", "256",
            "--data-dir", "", "--preload", "none", *more]
    env = {name: value for name, value in env.items() if name != "INGLE_API_KEY"}
    with subprocess.Popen([BINARY, *args], stderr=subprocess.PIPE, text=True, env=env) as server:
        said = ""
        for line in server.stderr:
            said += line
            # It listens before it knows its models.
            if "is the default" in line:
                break
        found = re.search(r"listening on (\S+)", said)
        assert found, said
        try:
            yield found[1]
        finally:
            server.terminate()
