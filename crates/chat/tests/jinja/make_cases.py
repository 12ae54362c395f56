"""Runs snippets.txt (one template a line; "\\x1e"-free) through Python's Jinja, set up as transformers does for chat
templates, and writes cases.json: what each gives. Needs jinja2 (3.1.6 was used)."""
import datetime, json, pathlib
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

class Generation(Extension):
    tags = {"generation"}
    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_keep"), [], [], body).set_lineno(line)
    def _keep(self, caller):
        return caller()

class Raised(Exception):
    pass

def raise_exception(message):
    raise Raised(message)

def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
env.filters["tojson"] = tojson
env.globals["raise_exception"] = raise_exception
env.globals["strftime_now"] = lambda f: datetime.datetime(2025, 3, 14, 15, 9, 26).strftime(f)

VARS = {
    "n": 3, "xs": [3, 1, 2], "d": {"a": "x", "items": 1}, "s": "héLLo wörld",
    "deep": {"b": [1, 2.5, None, True, "ü"], "a": {"c": [], "d": {}}},
    "people": [{"name": "Zoe", "age": 40}, {"name": "adam", "age": 30}, {"name": "Bob", "age": 40, "addr": {"zip": 1}}],
    "tree": [{"v": 1, "c": [{"v": 2, "c": []}, {"v": 3, "c": [{"v": 4, "c": []}]}]}, {"v": 5, "c": []}],
}

here = pathlib.Path(__file__).parent
cases = []
for template in (here / "snippets.txt").read_text().split("\n"):
    if not template:
        continue
    # A pilcrow stands for a line's end.
    template = template.replace("¶", "\n")
    try:
        cases.append({"template": template, "text": env.from_string(template).render(**VARS)})
    except Exception as e:
        cases.append({"template": template, "error": type(e).__name__})
(here / "cases.json").write_text(json.dumps({"vars": VARS, "cases": cases}, ensure_ascii=False, indent=1) + "\n")
print(len(cases), "cases,", sum("error" in c for c in cases), "errors")
