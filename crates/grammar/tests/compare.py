"""How many schemas of a folder llguidance itself compiles: to see what our refusals cost.

    pip install llguidance==1.9.1
    python compare.py FOLDER

Files are {"schema": ...}, or lists of such (the JSON-Schema-Test-Suite). Ours are counted by
`SHOW=1 cargo test -p ingle-grammar --test it suites -- --nocapture`.
"""

import json
import pathlib
import sys

from llguidance import LLMatcher


def main():
    compiled, refused, warned = 0, 0, 0
    for path in sorted(pathlib.Path(sys.argv[1]).rglob("*.json")):
        cases = json.loads(path.read_text())
        for case in cases if isinstance(cases, list) else [cases]:
            try:
                grammar = LLMatcher.grammar_from_json_schema(case["schema"])
                is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, None)
            except ValueError:  # a number too large for it
                is_error, messages = True, []
            if is_error:
                refused += 1
            else:
                compiled += 1
                warned += bool(messages)
    print(f"{compiled} compiled ({warned} with warnings), {refused} refused")


main()
