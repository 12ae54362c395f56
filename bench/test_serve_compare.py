"""Tests of `serve_compare.py` with servers that are none."""

import contextlib
import io
import json
import os
import stat
import sys
import tempfile
import textwrap
import unittest
from pathlib import Path
from unittest import mock

import serve_compare
import servers
import venvs
from sides import SideError

# Is `ingle` and llama-server at once: makes files, serves nothing but /health, reports what it is told.
FAKE = textwrap.dedent("""\
    #!{python}
    import http.server, json, os, sys
    args = sys.argv[1:]
    value = lambda name: args[args.index(name) + 1]
    if "--save" in args:
        open(value("--save"), "wb").write(b"GGUF" * 1000)
    elif "--version" in args:
        print("version: 42 (abc)\\nbuilt with fake 1.0")
    elif args[:2] == ["bench", "serve"]:
        speed = float(open(os.path.join({folder!r}, value("--url").rsplit(":")[-1])).read())
        n = float(os.environ.get("FAKE_OUTPUT_TOKENS", value("--output-tokens")))
        p = float(value("--prompt-tokens"))
        times = {{"p50": 1000 / speed, "p95": 2000 / speed, "p99": 3000 / speed}}
        json.dump({{"runs": [{{
            "requests": {{"failed": int(os.environ.get("FAKE_FAILED", "0"))}}, "errors": [], "partial": False,
            "tokens": {{"output": {{"min": n, "max": n}}, "prompt": {{"min": p, "max": p}}, "cached_total": 50,
                       "prompt_total": 100, "output_counted_by": "usage"}},
            "throughput": {{"output_tokens_per_s": speed}}, "ttft_ms": times, "itl_ms": times, "tpot_ms": times,
            "e2e_ms": times, "duration_s": 2.0, "answers": {{"digest": "d"}}}}]}}, open(value("--json"), "w"))
    else:
        if os.environ.get("FAKE_BROKEN") == os.path.basename(sys.argv[0]):
            sys.exit("no such luck")
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200 if self.path == "/health" else 404)
                self.end_headers()
            def log_message(self, *_):
                pass
        server = http.server.HTTPServer(("127.0.0.1", int(value("--port"))), Handler)
        # Who drives it learns its speed by its port.
        open(os.path.join({folder!r}, value("--port")), "w").write("120" if args[0] == "serve" else "100")
        open(os.path.join({folder!r}, "calls"), "a").write(json.dumps([os.path.basename(sys.argv[0]), *args]) + "\\n")
        server.serve_forever()
    """)


class ServeCompare(unittest.TestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)
        for name in ("ingle", "llama-server"):
            path = self.folder / name
            path.write_text(FAKE.format(python=sys.executable, folder=str(self.folder)))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run_it(self, *more, env=None):
        """Exit code, what it said, and the results."""
        args = ["serve_compare.py", "--ingle", self.folder / "ingle",
                "--llama-server", f"gcc={self.folder}/llama-server", "--work", self.folder / "work",
                "--out", self.folder / "out", *more]
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.object(sys, "argv", [str(arg) for arg in args]), mock.patch.dict(os.environ, env or {}), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = serve_compare.main()
        results = [json.loads(path.read_text()) for path in sorted((self.folder / "out").glob("*.json"))]
        return code, out.getvalue() + err.getvalue(), results

    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def test_servers_take_turns_and_are_compared(self):
        code, said, (result,) = self.run_it("--clients", "2,4", "--rounds", "2", "--threads", "3")
        self.assertEqual(code, 0, said)
        self.assertFalse(result["partial"])
        self.assertEqual([row["clients"] for row in result["rows"]], [2, 4])
        for row in result["rows"]:
            speed, ttft = row["summary"][0], row["summary"][1]
            self.assertEqual((speed["ingle"], speed["peer"], speed["n_rounds"]), (120.0, 100.0, 2))
            # Both ratios are above 1 where Ingle is better.
            self.assertAlmostEqual(speed["ratio"], 1.2)
            self.assertAlmostEqual(ttft["ratio"], 1.2)
            self.assertTrue(row["memory"]["ingle"]["keeps_budget"])
        # Another one begins in each round.
        self.assertEqual([call[0] for call in self.calls()],
                         ["ingle", "llama-server"] * 2 + ["llama-server", "ingle"] * 2)
        ours, theirs = self.calls()[:2]
        self.assertIn("--parallel 2 -c 512 --kv-tokens 1024", " ".join(ours))
        self.assertIn("-t 3 -tb 3 -np 2 -c 1024", " ".join(theirs))
        table = next((self.folder / "out").glob("*.md")).read_text()
        self.assertIn("| 2 | output tokens/s | 120 | 100 | gcc | 1.20 | 1.20 to 1.20 | 2 |", table)
        self.assertIn("within 2048 MiB", table)
        self.assertFalse((self.folder / "work" / "serve-1b.gguf").exists())

    def test_other_work_is_no_figure(self):
        for env, part in (({"FAKE_OUTPUT_TOKENS": "63"}, "outputs had 63 to 63 tokens, not 64"),
                          ({"FAKE_FAILED": "2"}, "2 requests failed")):
            code, said, _ = self.run_it("--clients", "1", "--rounds", "1", env=env)
            self.assertEqual(code, 1)
            self.assertIn(part, said)

    def test_a_server_that_fails_is_a_note(self):
        code, said, (result,) = self.run_it("--clients", "1", "--quick", env={"FAKE_BROKEN": "llama-server"})
        self.assertEqual(code, 0, said)
        self.assertIn("no such luck", result["notes"][0])
        self.assertIsNone(result["rows"][0]["summary"][0]["ratio"])

    def test_what_cannot_be_done_is_refused(self):
        for more, part in ((["--shared-prefix", "192"], "below --prompt-tokens"),
                           (["--model", "/nowhere.gguf"], "/nowhere.gguf does not exist"),
                           (["--llama-server", "gcc=/nowhere"], "is taken"),
                           (["--llama-server", "other=/nowhere"], "no program")):
            code, said, _ = self.run_it(*more)
            self.assertEqual(code, 1)
            self.assertIn(part, said)

    def test_a_partial_answer_is_an_error(self):
        args = mock.Mock(prompt_tokens=5, output_tokens=5)
        run = {"requests": {"failed": 0}, "partial": True, "errors": []}
        with self.assertRaises(SideError):
            serve_compare.figures({"runs": [run]}, args)

    def test_the_source_is_fetched_once(self):
        found = self.folder / "llama_cpp_python-0.3.36" / "vendor" / "llama.cpp"
        with mock.patch.object(venvs, "PACKAGE", "llama-cpp-python==0.3.36"), \
                mock.patch.object(servers.subprocess, "run") as ran:
            ran.return_value = mock.Mock(returncode=1, stderr="no network")
            with self.assertRaisesRegex(venvs.VenvError, "no network"):
                servers.source(self.folder, lambda _: None)
            found.mkdir(parents=True)
            (found / "CMakeLists.txt").touch()
            self.assertEqual(servers.source(self.folder, lambda _: None), found)
            self.assertEqual(ran.call_count, 1)

    def test_a_server_is_built_once(self):
        code = self.folder / venvs.PACKAGE.replace("-", "_").replace("==", "-") / "vendor" / "llama.cpp"
        code.mkdir(parents=True)
        (code / "CMakeLists.txt").touch()
        made = self.folder / "llama-server-gcc" / "llama-server"
        commands = []

        def cmake(command, env, **_):
            commands.append([str(part) for part in command])
            self.assertEqual((env["CC"], env["CXX"]), ("cc", "c++"))
            if "--build" in command:
                (Path(command[2]) / "bin").mkdir(parents=True)
                (Path(command[2]) / "bin" / "llama-server").touch()

        with mock.patch.object(servers.subprocess, "run", cmake):
            for _ in range(2):
                self.assertEqual(servers.build(self.folder, "gcc", "cc", "c++", lambda _: None), made)
        self.assertEqual(len(commands), 2)
        self.assertIn("-DGGML_NATIVE=ON", commands[0])
        self.assertTrue(made.exists())
        self.assertFalse((self.folder / "llama-server-gcc.build").exists())

    def test_a_failed_build_names_its_log(self):
        with mock.patch.object(servers, "source", lambda *_: self.folder), \
                mock.patch.object(servers.subprocess, "run", side_effect=OSError):
            with self.assertRaisesRegex(venvs.VenvError, "llama-server-gcc.log tells why"):
                servers.build(self.folder, "gcc", "cc", "c++", lambda _: None)


if __name__ == "__main__":
    unittest.main()
