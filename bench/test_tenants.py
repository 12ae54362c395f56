"""Tests of `tenants.py` with a server that is none."""

import argparse
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

import tenants

# Is `ingle` as server and as client: makes files, serves /health and /metrics, reports what it is told.
FAKE = textwrap.dedent("""\
    #!{python}
    import http.server, json, os, signal, sys, time
    args = sys.argv[1:]
    value = lambda name: args[args.index(name) + 1]
    env = os.environ.get
    if "--save" in args:
        open(value("--save"), "wb").write(b"GGUF" * 1000)
    elif "--version" in args:
        print("ingle 1.2.3")
    elif args[:2] == ["bench", "serve"]:
        port = value("--url").rsplit(":")[-1]
        flag = os.path.join({folder!r}, "flooded-" + port)
        is_flood = env("BENCH_KEY") == "flooding-tenant"
        open(os.path.join({folder!r}, "calls"), "a").write(json.dumps([env("BENCH_KEY"), *args]) + "\\n")
        if is_flood:
            if env("FAKE_NO_FLOOD"):
                sys.exit("nobody there")
            open(flag, "w").close()
            signal.signal(signal.SIGINT, lambda *_: None)
            signal.pause()
        n = int(value("--requests")) if not is_flood else 3
        wait = float(env("FAKE_FLOODED_MS", "300")) if os.path.exists(flag) else 60.0
        failed = int(env("FAKE_FAILED", "0"))
        with open(value("--records"), "w") as out:
            for i in range(n):
                # Each was sent 10 ms late, which counts.
                out.write(json.dumps({{"scheduled_ms": 100.0 * i, "sent_ms": 100.0 * i + 10,
                                      "first_ms": 100.0 * i + wait + i % 2, "prompt_tokens": 90,
                                      "output_tokens": 10}}) + "\\n")
        json.dump({{"runs": [{{"requests": {{"failed": failed, "answered": n}}, "errors": [["http_429", failed]],
                             "partial": is_flood, "ttft_ms": {{"p50": wait}}}}]}}, open(value("--json"), "w"))
        time.sleep(0.3)
        sys.exit(130 if is_flood else 3 if failed else 0)
    else:
        port = value("--port")
        keys = open(value("--api-key-file")).read().split()
        flag = os.path.join({folder!r}, "flooded-" + port)
        began = time.monotonic()
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if self.path == "/metrics":
                    assert self.headers["Authorization"] == "Bearer " + keys[0]
                # A thousand tokens per second, of which a tenth are answers.
                n = (time.monotonic() - began) * 1000
                body = (f'# HELP x y\\ningle_prompt_tokens_total{{{{model="a b"}}}} {{n * 0.9}}\\n'
                        f'ingle_generated_tokens_total {{n * 0.1}}\\n'
                        f'ingle_sequences_waiting {{5 * os.path.exists(flag)}}\\n'
                        'ingle_requests_finished_total 7\\n').encode()
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)
            def log_message(self, *_):
                pass
        http.server.HTTPServer(("127.0.0.1", int(port)), Handler).serve_forever()
    """)


class Tenants(unittest.TestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)
        path = self.folder / "ingle"
        path.write_text(FAKE.format(python=sys.executable, folder=str(self.folder)))
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def run_it(self, *more, env=None):
        """Exit code, what it said, and the results."""
        args = ["tenants.py", "--ingle", self.folder / "ingle", "--work", self.folder / "work", "--out",
                self.folder / "out", "--capacity-seconds", "0.2", "--requests", "5", *more]
        out, err = io.StringIO(), io.StringIO()
        with mock.patch.object(sys, "argv", [str(arg) for arg in args]), mock.patch.dict(os.environ, env or {}), \
                contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = tenants.main()
        results = [json.loads(path.read_text()) for path in sorted((self.folder / "out").glob("*.json"))]
        return code, out.getvalue() + err.getvalue(), results

    def calls(self):
        return [json.loads(line) for line in (self.folder / "calls").read_text().splitlines()]

    def test_the_flood_is_beside_one_phase_only(self):
        code, said, (result,) = self.run_it("--rounds", "2", "--parallel", "4")
        self.assertEqual(code, 0, said)
        self.assertFalse(result["partial"])
        found = result["summary"]
        # From the intended start: 60 and 61 in turn.
        self.assertEqual((found["idle"]["p50_ms"], found["idle"]["p99_ms"], found["idle"]["requests"]), (60, 61, 10))
        self.assertEqual(found["flooded"]["p99_ms"], 301)
        self.assertEqual((found["bound"]["p50_ms"], found["bound"]["p99_ms"]), (320, 322))
        self.assertTrue(all(found["kept"].values()))
        # A twentieth of what the flood got alone, in requests of 104 tokens.
        self.assertAlmostEqual(result["capacity_tokens_per_s"], 1000, delta=100)
        self.assertAlmostEqual(result["rate"], 0.05 * result["capacity_tokens_per_s"] / 104)
        names = [call[0] for call in self.calls()]
        quiet, flood = "quiet-tenant", "flooding-tenant"
        self.assertEqual(names, [flood, quiet, flood, quiet, flood, quiet, quiet])
        seeds = [call[call.index("--seed") + 1] for call in self.calls() if call[0] == quiet]
        self.assertEqual(seeds, ["0", "0", "1", "1"], "both phases send the same")
        of_flood = next(call for call in self.calls() if call[0] == flood)
        self.assertEqual(of_flood[of_flood.index("--concurrency") + 1], "12")
        self.assertIn("--parallel 4 -c 2304 --kv-tokens 9216 --api-key-file keys", result["command"])
        table = next((self.folder / "out").glob("*.md")).read_text()
        self.assertIn("| P99 | 61.0 | 301 | 322 | yes |", table)
        self.assertIn("fewer than 100 requests", table)
        self.assertFalse((self.folder / "work" / "serve-1b.gguf").exists())

    def test_who_waits_too_long_is_told(self):
        code, said, (result,) = self.run_it(env={"FAKE_FLOODED_MS": "400"})
        self.assertEqual(code, 3, said)
        self.assertFalse(result["summary"]["kept"]["p99_ms"])
        self.assertIn("| 400 | 320 | no |", said)

    def test_another_share_is_a_note(self):
        code, said, _ = self.run_it("--share", "0.3")
        self.assertIn("of the tokens, not 30 %", said)
        code, said, _ = self.run_it("--rate", "5")
        self.assertEqual(code, 0, said)
        self.assertNotIn("of the tokens, not", said)

    def test_what_was_not_measured_is_an_error(self):
        for env, part in (({"FAKE_FAILED": "2"}, "2 requests of the quiet tenant failed"),
                          ({"FAKE_NO_FLOOD": "1"}, "nobody there")):
            code, said, results = self.run_it(env=env)
            self.assertEqual((code, results), (1, []), said)
            self.assertIn(part, said)

    def test_what_cannot_be_done_is_refused(self):
        for more, part in ((["--flood-clients", "8"], "above --parallel"),
                           (["--model", "/nowhere.gguf"], "/nowhere.gguf does not exist"),
                           (["--ingle", "/nowhere"], "/nowhere does not exist")):
            code, said, _ = self.run_it(*more)
            self.assertEqual(code, 1)
            self.assertIn(part, said)

    def test_lengths(self):
        for text, mean, longest in (("512", 512, 512), ("uniform:64-1024", 544, 1024),
                                    ("lognormal:100,0.5", 113.3, 1000), ("lognormal:100,0.5,300", 113.3, 300)):
            found = tenants.Lengths(text)
            self.assertAlmostEqual(found.mean, mean, delta=0.05)
            self.assertEqual(found.longest, longest)
        for text in ("", "0", "uniform:5", "uniform:9-3", "uniform:0-3", "lognormal:1", "many"):
            with self.assertRaises(argparse.ArgumentTypeError, msg=text):
                tenants.Lengths(text)


if __name__ == "__main__":
    unittest.main()
