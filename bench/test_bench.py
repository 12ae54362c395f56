"""`python3 -m unittest discover bench`: the parts that need neither an engine nor a network."""

import contextlib
import io
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest
import xml.etree.ElementTree
from pathlib import Path

import chart
import compare
import driver
import machine
import report
import sides
import venvs
from plan import REFERENCE_TYPE, ROW_GROUPS, SHAPES, TYPES, Block, File, Row, plan

# Speaks the protocol of `ingle bench --stdin` and of peer.py.
FAKE = textwrap.dedent("""\
    #!{python}
    import json, os, sys
    speed = float(os.environ.get("FAKE_SPEED", "100"))
    def answer(value):
        print(json.dumps(value), flush=True)
    if "--save" in sys.argv:
        name = sys.argv[sys.argv.index("--synthetic") + 1]
        if name.endswith("F32"):
            sys.exit("mixture `F32` is unknown")
        if sys.argv[-1] != "/dev/null":
            open(sys.argv[-1], "wb").write(b"GGUF" * 1000)
        sys.exit(0)
    if "--version" in sys.argv:
        print("ingle 9.9.9")
        sys.exit(0)
    answer({{"package": "fake 1.0", "system_info": "AVX = 1 |", "prefill_limit": "int8_gops"}})
    for line in sys.stdin:
        request = json.loads(line)
        if request["measure"] == "limits":
            answer({{"int8_gops": 1000.0, "f32_gops": 500.0, "read_gb_per_s": 40.0}})
        elif request.get("n_seqs") == 13:
            sys.exit("thirteen")
        elif request.get("n_seqs") == 14:
            answer({{"error": "not fourteen"}})
        else:
            n = request.get("n_tokens", 0)
            answer({{"n_tokens": n, "seconds": 0.1, "tokens_per_s": speed, "linear_gops": 500.0,
                    "file_gb_per_s": 20.0}})
    """)


# As much of llama-cpp-python's C interface as peer.py calls; it writes down each call of `llama_decode`.
STUB = textwrap.dedent("""\
    import json, os
    from types import SimpleNamespace as Some

    def llama_decode(context, batch):
        rows = [(batch.pos[i], batch.seq_id[i][0], bool(batch.logits[i])) for i in range(batch.n_tokens)]
        with open(os.environ["STUB_CALLS"], "a") as file:
            file.write(json.dumps(rows) + "\\n")
        return 1 if max(row[0] for row in rows) >= context.n_ctx // context.n_seq_max else 0

    def llama_batch_init(n, *_):
        return Some(token=[0] * n, pos=[0] * n, n_seq_id=[0] * n, seq_id=[[0] for _ in range(n)], logits=[0] * n)

    llama_context_default_params = llama_model_default_params = Some
    def llama_init_from_model(model, params): return params
    def llama_model_load_from_file(path, params): return b"bad" not in path
    def llama_log_callback(f): return f
    def llama_print_system_info(): return b"AVX = 1"
    def llama_vocab_n_tokens(vocab): return 1000
    def nothing(*_): pass
    llama_log_set = llama_backend_init = llama_free = llama_batch_free = llama_memory_clear = nothing
    llama_memory_seq_rm = llama_set_n_threads = llama_get_memory = llama_model_get_vocab = llama_synchronize = nothing
    """)


def command_line(path):
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""


class Fakes(unittest.TestCase):
    """Cases with fake engines in a folder of their own."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def program(self, name, text):
        path = self.folder / name
        path.write_text(text)
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return path

    def fake(self):
        return self.program("ingle", FAKE.format(python=sys.executable))


class Plan(unittest.TestCase):
    def test_everything_is_planned_once(self):
        files = plan(TYPES, [1, 2], list(ROW_GROUPS))
        self.assertEqual(len({f.name for f in files}), len(files))
        self.assertEqual([f.name for f in files[:2]], ["llama-1b-Q4_K_M", "llama-8b-Q4_K_M"])
        rows = [row.what for block in files[0].blocks for row in block.rows]
        for what in ("pp512", "tg128", "pp2048", "tg64 @ 4096", "tg32 x 32", "load", "pp512, busy"):
            self.assertIn(what, rows)
        self.assertEqual({b.threads for b in files[2].blocks}, {1, 2})

    def test_long_quick_and_avx2(self):
        rows = lambda **options: [
            (row.what, b.isa) for f in plan([REFERENCE_TYPE], [2], list(ROW_GROUPS), **options) for b in f.blocks
            for row in b.rows]
        self.assertIn(("pp8192", None), rows(long=True))
        self.assertIn(("tg64 @ 16384", None), rows(long=True))
        self.assertIn(("pp512", "avx2"), rows(avx2=True))
        self.assertIn(("pp64", None), rows(quick=True))
        self.assertNotIn(("pp512", None), rows(quick=True))

    def test_contexts_hold_what_is_asked_for(self):
        self.assertEqual(Block([Row("decode", 64, depth=4096)], 2).n_ctx, 4161)
        self.assertEqual(Block([Row("decode", 32, n_seqs=8), Row("prefill", 16)], 2).n_seqs, 8)

    def test_a_busy_row_weighs_more(self):
        file = File(SHAPES["llama-1b"], "Q8_0")
        time_of = lambda busy: driver.planned_seconds(file, Block([Row("decode", 32, busy=busy)], 2), 3)
        self.assertGreater(time_of(True), time_of(False))


class TimeShares(unittest.TestCase):
    def test_rounds_follow_the_time(self):
        now = [0.0]
        clock = driver.Clock(100, 4, now=lambda: now[0])
        clock.start_block(1)
        self.assertEqual(clock.block_deadline, 25)
        self.assertTrue(clock.another_round(0, 0, 2, 5))
        now[0] = 20
        clock.learn(1, 20)
        self.assertTrue(clock.another_round(1, 20, 2, 5), "two rounds even beyond the block's share")
        self.assertFalse(clock.another_round(1, 21, 2, 5), "but never at the cost of another block's first")
        now[0] = 40
        self.assertFalse(clock.another_round(2, 0, 2, 5))
        self.assertFalse(clock.another_round(1, 0, 1, 5))
        clock.skip_block(1)
        clock.start_block(2)
        self.assertEqual(clock.block_deadline, 100)
        self.assertTrue(clock.another_round(2, 20, 2, 5))
        self.assertFalse(clock.another_round(5, 1, 2, 5))
        now[0] = 101
        self.assertFalse(clock.another_round(0, 0, 2, 5), "nothing is begun after the end")
        self.assertFalse(clock.another_round(1, 1, 2, 5))
        self.assertIn("1:41 gone", clock.progress())

    def test_programs_that_load_each_time_are_asked_for_some_types(self):
        ik = sides.IkLlamaCpp("/nowhere", repack=True)
        block = Block([Row("decode", 32)], 2)
        self.assertFalse(driver.unfit(ik, File(SHAPES["llama-1b"], "Q5_K_M"), block))
        self.assertTrue(driver.unfit(ik, File(SHAPES["llama-1b"], "IQ1_S"), block))
        self.assertTrue(driver.unfit(ik, File(SHAPES["llama-1b"], "Q4_0"), Block([Row("decode", 32, busy=True)], 2)))
        self.assertFalse(driver.unfit(sides.LlamaCpp("gcc", "python3"), File(SHAPES["llama-1b"], "IQ1_S"), block))


class Report(unittest.TestCase):
    def test_pairs_and_the_better_peer(self):
        records = lambda *values: [{"tokens_per_s": v} if v else None for v in values]
        found = report.compare({"ingle": records(10, 20, 30), "gcc": records(5, 5, 5), "clang": records(5, None, 20)},
                               "tokens_per_s")
        self.assertEqual(found["peer_name"], "clang")
        self.assertEqual((found["ratio"], found["ratio_min"], found["ratio_max"]), (1.75, 1.5, 2.0))
        self.assertEqual(found["n_rounds"], 3)
        found = report.compare({"ingle": [{"seconds": 1.0}], "gcc": [{"seconds": 2.0}], "clang": [{"seconds": 3.0}]},
                               "seconds", higher_is_better=False)
        self.assertEqual((found["peer_name"], found["ratio"]), ("gcc", 2.0))
        self.assertIsNone(report.compare({"ingle": records(1)}, "tokens_per_s")["ratio"])
        self.assertIsNone(report.compare({"ingle": [None], "gcc": records(1)}, "tokens_per_s")["ratio"])

    def test_numbers_have_three_digits(self):
        for value, expected in ((612.3, "612"), (51.26, "51.3"), (7.576, "7.58"), (0.8912, "0.89"), (None, "-"),
                                (12345.6, "12346")):
            self.assertEqual(report.number(value), expected)

    def test_tables(self):
        text = report.table(["a", "b"], [[1, 2]])
        self.assertEqual(text, "| a | b |\n| --- | --- |\n| 1 | 2 |\n")


def measured(what="pp512", kind="prefill", ratio=2.0, **changes):
    row = {"file": "llama-1b-Q4_K_M", "type": "Q4_K_M", "shape": "llama-1b", "file_bytes": 1, "threads": 2, "isa": None,
           "what": what, "kind": kind, "n_tokens": 512, "n_seqs": 1, "depth": 0, "busy": False, "base": False,
           "failed": [], "ingle": {"prefill_limit": "int8_gops"},
           "sides": {"ingle": [{"tokens_per_s": 100.0 * ratio, "linear_gops": 500.0, "file_gb_per_s": 20.0,
                                "limits": {"int8_gops": 1000.0, "read_gb_per_s": 40.0}}],
                     "gcc & co": [{"tokens_per_s": 100.0}]}}
    return {**row, **changes}


class Chart(unittest.TestCase):
    def test_svg_is_well_formed_and_inside_its_frame(self):
        rows = report.summarize([measured(), measured("tg128", "decode", 0.9, n_tokens=128),
                                 measured("tg32 x 8", "decode", 4.0, n_seqs=8), measured(threads=1)])
        picture = chart.svg(rows, 'Speed "<here>"', ["a & b"])
        root = xml.etree.ElementTree.fromstring(picture)
        width = float(root.get("width"))
        space = "{http://www.w3.org/2000/svg}"
        bars = [r for r in root.iter(f"{space}rect") if r.get("class") in ("ours", "theirs") and r.get("x") != "24"]
        self.assertEqual(len(bars), 6 + 1, "three rows of two bars, and the key")
        self.assertTrue(all(float(b.get("x")) + float(b.get("width")) < width for b in bars))
        self.assertIn("2.00×", picture)

    def test_main_rows_are_planned(self):
        files = plan(TYPES, [1, 2], list(ROW_GROUPS))
        planned = {(f.shape.name, f.type_name, row.what) for f in files for b in f.blocks for row in b.rows}
        self.assertEqual(set(chart.MAIN_ROWS) - planned, set())

    def test_long_captions_are_wrapped(self):
        root = xml.etree.ElementTree.fromstring(chart.svg(report.summarize([measured()]), "t", ["word " * 60]))
        texts = [t.text for t in root.iter("{http://www.w3.org/2000/svg}text")]
        self.assertTrue(all(len(t) < 130 for t in texts))

    def test_nothing_to_show_is_no_picture(self):
        self.assertIsNone(chart.svg([], "t", []))


class Arguments(unittest.TestCase):
    def parse(self, *arguments):
        return compare.parser().parse_args(arguments)

    def test_lists(self):
        args = self.parse("--types", "q8_0,Q4_K_M", "--threads", "4,1", "--rows", "speed,8b")
        self.assertEqual((args.types, args.threads, args.rows), (["Q8_0", "Q4_K_M"], [4, 1], ["speed", "8b"]))

    def test_mistakes_are_named(self):
        for arguments, expected in ((["--types", "Q9"], "Q9: unknown"), (["--threads", "0"], "at least 1"),
                                    (["--rows", "x"], "known: speed"), (["--rounds", "0"], "at least 1")):
            errors = io.StringIO()
            with contextlib.redirect_stderr(errors), self.assertRaises(SystemExit):
                self.parse(*arguments)
            self.assertIn(expected, errors.getvalue())

    def test_environments_must_work(self):
        for pair, expected in (("gcc", "NAME=PATH"), ("ingle=/x", "taken"), ("gcc=/nowhere", "import llama_cpp")):
            with self.assertRaisesRegex(venvs.VenvError, expected):
                venvs.given([pair])

    def test_the_newest_compiler(self):
        self.assertEqual(venvs.newest("clang", {"clang", "clang-9", "clang-19", "clang-tidy-20"}), "clang-19")
        self.assertEqual(venvs.newest("clang", {"clang", "clangd"}), "clang")
        self.assertIsNone(venvs.newest("clang", {"gcc"}))


class Machine(unittest.TestCase):
    def test_names(self):
        host = {"cpu": "AMD EPYC 9R14 96-Core Processor", "microarchitecture": "Zen 4", "cores": 2}
        self.assertEqual(machine.slug(host), "amd-epyc-9r14-zen4-2-core")
        self.assertEqual(machine.slug({"cpu": "Intel(R) Xeon(R) CPU @ 2.20GHz", "cores": 8}), "intel-xeon-8-core")
        self.assertEqual(machine.zen({"vendor_id": "AuthenticAMD", "cpu family": "25", "model": "17"}), "Zen 4")
        self.assertEqual(machine.chosen("always [madvise] never"), "madvise")
        self.assertTrue(json.dumps(machine.describe()))


class OtherOutputs(unittest.TestCase):
    def test_llama_bench(self):
        self.assertEqual(sides.bench_speed('[\nWARNING: zero bytes\n {"avg_ts": 12.5,\n}\n]\nmore'), 12.5)
        with self.assertRaises(sides.SideError):
            sides.bench_speed("nothing")

    def test_batched_bench(self):
        line = "|     1 |     32 |    8 |    264 |    0.1 |   80.0 |    2.0 |   128.00 |   2.1 |  125.7 |"
        self.assertEqual(sides.batched_speed(f"|    PP |\n{line}\n", 8), 128.0)
        with self.assertRaises(sides.SideError):
            sides.batched_speed(line, 4)


class Protocol(Fakes):
    def test_a_process_that_waits_is_stopped(self):
        side = sides.Ingle(self.fake())
        self.addCleanup(side.close)
        side.open(File(SHAPES["llama-1b"], "Q8_0", path=self.folder / "x"), Block([Row("prefill", 8)], 1))
        if Path("/proc").is_dir():
            state = Path(f"/proc/{side.process.child.pid}/stat")
            deadline = time.monotonic() + 60
            while state.read_text().split()[2] != "T" and time.monotonic() < deadline:
                time.sleep(0.01)
            self.assertEqual(state.read_text().split()[2], "T")
        self.assertEqual(side.measure(Row("prefill", 8))["tokens_per_s"], 100.0)

    def test_errors_and_crashes_are_told_apart(self):
        process = sides.Process([self.fake()])
        self.addCleanup(process.close)
        process.read()
        with self.assertRaisesRegex(sides.SideError, "not fourteen"):
            process.request({"measure": "decode", "n_seqs": 14})
        self.assertTrue(process.alive)
        with self.assertRaisesRegex(sides.SideError, "exit code 1.*thirteen"):
            process.request({"measure": "decode", "n_seqs": 13})
        with self.assertRaisesRegex(sides.SideError, "cannot start"):
            sides.Process([self.folder / "absent"])

    def drive(self, files, rounds=2):
        """A run of fakes, in which the peer is half as fast."""
        ingle = sides.Ingle(self.fake())
        peer = sides.LlamaCpp("gcc", self.program("python", "#!/bin/sh\nFAKE_SPEED=50 exec %s\n" % self.fake()))
        run = driver.Driver(ingle, [peer], [], rounds, self.folder, False, lambda text: None)
        run.run(files, 60, lambda: None)
        return run, report.summarize(run.rows)

    def test_a_run(self):
        block = Block([Row("prefill", 8), Row("decode", 4), Row("decode", 4, base=True),
                       Row("decode", 4, busy=True)], 2)
        files = [File(SHAPES["llama-1b"], "Q8_0", [block, Block([Row("load")], 2)])]
        run, rows = self.drive(files)
        self.assertEqual([row["summary"][0]["ratio"] for row in rows[:4]], [2.0] * 4)
        self.assertEqual((rows[0]["share"], rows[0]["limit"]), (0.5, "int8"))
        self.assertEqual((rows[1]["share"], rows[1]["limit"]), (0.5, "memory"))
        self.assertEqual(rows[3]["kept"], {"ingle": 1.0, "gcc": 1.0})
        self.assertEqual(len(rows[0]["sides"]["gcc"]), 2)
        self.assertGreater(rows[4]["summary"][0]["ingle"], 0)
        self.assertFalse((self.folder / "llama-1b-Q8_0.gguf").exists(), "made files are removed")
        result = {"date": "2000-01-01", "partial": True, "machine": machine.describe(), "rows": rows,
                  "notes": run.notes, "ingle": {"version": "ingle 1", "commit": None}, "format": 1, "rounds": 2,
                  "peers": {"gcc": {"package": "fake 1.0"}}}
        text = report.markdown(result)
        for part in ("| Q8_0 | 2 | pp8 | 100 | 50 % of int8 | 50.0 | gcc | 2.00 |", "Partial", "Beside one other busy",
                     "to the first token, s"):
            self.assertIn(part, text)
        compare.write(self.folder / "out", "stem", result)
        self.assertEqual(len(list((self.folder / "out").iterdir())), 3)

    def test_a_crash_or_a_refusal_is_a_note_and_the_rest_goes_on(self):
        block = Block([Row("decode", 4, n_seqs=13), Row("decode", 4, n_seqs=14), Row("prefill", 4)], 2)
        files = [File(SHAPES["llama-1b"], "F32", [block]), File(SHAPES["llama-1b"], "Q8_0", [block]),
                 File(SHAPES["llama-1b"], "Q4_0", [Block([Row("prefill", 4)], 1)])]
        run, rows = self.drive(files)
        notes = "\n".join(run.notes)
        for part in ("F32` is unknown", "x 13: the process ended", "gcc on llama-1b-Q8_0"):
            self.assertIn(part, notes)
        self.assertEqual(rows[-1]["summary"][0]["ratio"], 2.0)

    def test_unknown_types_are_skipped_with_a_note(self):
        notes = []
        self.assertEqual(compare.known_types(self.fake(), ["Q8_0", "F32"], notes.append), ["Q8_0"])
        self.assertEqual(notes, ["types that this Ingle does not know: F32"])


class WholeRun(Fakes):
    """compare.py as people start it, with fake engines."""

    def start(self, *arguments):
        (self.folder / "venv" / "bin").mkdir(parents=True)
        self.program("venv/bin/python", f'#!/bin/sh\n[ "$1" = -c ] && exit\nFAKE_SPEED=50 exec {self.fake()}\n')
        command = [sys.executable, compare.__file__, "--ingle", self.folder / "ingle", "--work", self.folder / "work",
                   "--out", self.folder / "out", "--peer-venv", f"gcc={self.folder / 'venv'}", *arguments]
        command = [str(part) for part in command]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def result(self):
        (path,) = (self.folder / "out").glob("*.json")
        return json.loads(path.read_text())

    def test_results_are_written(self):
        child = self.start("--quick", "--types", "Q8_0,F32", "--threads", "1", "--rows", "speed,batch")
        out, errors = child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0, errors)
        self.assertIn("| Q8_0 | 1 | pp64 | 100 |", out)
        result = self.result()
        self.assertFalse(result["partial"])
        self.assertIn("types that this Ingle does not know: F32", result["notes"])
        self.assertEqual(result["peers"]["gcc"]["package"], "fake 1.0")
        self.assertEqual(len(list((self.folder / "out").iterdir())), 3)

    def test_stopping_keeps_what_was_measured(self):
        for number in (signal.SIGINT, signal.SIGTERM):
            with self.subTest(number), contextlib.ExitStack() as stack:
                self.setUp()
                child = stack.enter_context(self.start("--rounds", "100000", "--types", "Q8_0", "--rows", "speed"))
                while "round 2" not in child.stderr.readline():
                    self.assertIsNone(child.poll())
                child.send_signal(number)
                child.communicate(timeout=60)
                self.assertEqual(child.returncode, 130)
                result = self.result()
                self.assertTrue(result["partial"])
                self.assertEqual(result["rows"][0]["summary"][0]["ratio"], 2.0)
                self.assertEqual(list((self.folder / "work").iterdir()), [], "the model is removed")

    def test_nothing_is_left_of_a_killed_run(self):
        child = self.start("--rounds", "100000", "--types", "Q8_0", "--rows", "speed,busy")
        with child:
            while "round 2" not in child.stderr.readline():
                self.assertIsNone(child.poll())
            child.kill()
        ours = lambda: [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(self.folder) in command_line(p)]
        deadline = time.monotonic() + 60
        while ours() and time.monotonic() < deadline:
            time.sleep(0.05)
        self.assertEqual(ours(), [])

    def test_what_is_missing_is_said(self):
        child = self.start("--model", self.folder / "absent.gguf")
        self.assertIn("absent.gguf does not exist", child.communicate(timeout=60)[1])
        self.assertEqual(child.returncode, 1)


class Peer(Fakes):
    def setUp(self):
        super().setUp()
        self.calls = self.folder / "calls"
        package = self.folder / "llama_cpp"
        package.mkdir()
        (package / "__init__.py").write_text(STUB)
        facts = self.folder / "llama_cpp_python-1.2.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text("Name: llama-cpp-python\nVersion: 1.2\n")
        env = {"PYTHONPATH": str(self.folder), "STUB_CALLS": str(self.calls), "PYTHONDONTWRITEBYTECODE": "1"}
        self.process = sides.Process([sys.executable, Path(sides.__file__).with_name("peer.py")], env)
        self.addCleanup(self.process.close)
        self.assertEqual(self.process.read()["package"], "llama-cpp-python 1.2")
        self.process.request({"measure": "load", "model": "good"})

    def steps(self):
        """The calls since the last question."""
        lines = [json.loads(line) for line in self.calls.read_text().splitlines()]
        self.calls.write_text("")
        return lines

    def test_prefill_asks_for_the_last_logits_only(self):
        self.process.request({"measure": "prefill", "n_tokens": 600})
        first, a, b = self.steps()
        self.assertEqual(first, [[0, 0, True]], "a new context computes a token first")
        self.assertEqual((len(a), len(b)), (512, 88))
        self.assertEqual([row for row in a + b if row[2]], [[599, 0, True]])

    def test_decode_fills_the_context_once(self):
        request = {"measure": "decode", "n_tokens": 3, "n_seqs": 2, "depth": 5}
        answer = self.process.request(request)
        self.assertEqual(answer["n_tokens"], 6)
        steps = self.steps()
        self.assertEqual([len(step) for step in steps], [2, 5, 5, 2, 2, 2])
        self.assertEqual(steps[-1], [[7, 0, True], [7, 1, True]])
        self.process.request(request)
        self.assertEqual([len(step) for step in self.steps()], [2, 2, 2])
        self.process.request({"measure": "prefill", "n_tokens": 4})
        self.process.request(request)
        self.assertEqual([len(step) for step in self.steps()], [1, 4, 2, 5, 5, 2, 2, 2])
        self.assertEqual(self.process.request({**request, "max_seconds": 0})["n_tokens"], 2)

    def test_failures_are_answers(self):
        for request, expected in (({"measure": "load", "model": "bad"}, "cannot load"),
                                  ({"measure": "decode", "n_tokens": 1, "depth": 5000}, "llama_decode gave 1"),
                                  ({"measure": "nothing"}, "KeyError")):
            with self.assertRaisesRegex(sides.SideError, expected):
                self.process.request(request)
        self.assertEqual(self.process.request({"measure": "context", "n_ctx": 9000, "threads": 1}), {})
        self.process.request({"measure": "load", "model": "good"})
        self.process.request({"measure": "decode", "n_tokens": 1, "depth": 5000})


if __name__ == "__main__":
    unittest.main()
