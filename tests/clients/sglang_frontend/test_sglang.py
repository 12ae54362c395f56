"""Programs in SGLang's frontend language, by its own interpreter, against a running server. Nothing here depends on
which model it serves."""

import json
import math


import pytest
import sglang as sgl
from sglang.lang.choices import greedy_token_selection, unconditional_likelihood_normalized

from conftest import API_KEY, ROOT

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module", autouse=True)
def backend():
    backend = sgl.RuntimeEndpoint(ROOT, api_key=API_KEY or None)
    sgl.set_default_backend(backend)
    return backend


def run(function, **arguments):
    state = function.run(temperature=0, **arguments)
    state.sync()
    assert state.error() is None
    return state


@sgl.function
def story(s, prompt=PROMPT, **gen):
    s += prompt
    s += sgl.gen("text", **gen)


def test_backend(backend):
    assert backend.get_model_name()
    assert backend.get_server_info()["version"]


def test_gen():
    state = run(story, max_tokens=8)
    assert state.text() == PROMPT + state["text"]
    meta = state.get_meta_info("text")
    assert 0 < meta["completion_tokens"] <= 8 and meta["prompt_tokens"] > 0
    assert meta["finish_reason"]["type"] in ("stop", "length")
    assert run(story, max_tokens=8)["text"] == state["text"], "greedy answers repeat"


def test_stop():
    text = run(story, max_tokens=16)["text"]
    if len(text) < 6:
        pytest.skip("the model says too little to be stopped")
    stop = text[3:5]
    for form in (stop, [stop, "\x01never\x01"]):
        assert run(story, max_tokens=16, stop=form)["text"] == text[: text.index(stop)]


def test_sampling():
    options = {"max_tokens": 4, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "frequency_penalty": 0.1,
               "presence_penalty": 0.1, "ignore_eos": True, "stop_token_ids": [0], "min_tokens": 2}
    state = story.run(temperature=0.8, **options)
    assert state.error() is None and state.get_meta_info("text")["completion_tokens"] in range(1, 5)


SCHEMA = {
    "type": "object",
    "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 9}, "ok": {"type": "boolean"}},
    "required": ["n", "ok"],
    "additionalProperties": False,
}


def test_constraints():
    assert run(story, max_tokens=20, regex="left|right")["text"] in ("left", "right")
    value = json.loads(run(story, max_tokens=100, json_schema=json.dumps(SCHEMA))["text"])
    assert value["n"] in range(10) and isinstance(value["ok"], bool)
    assert run(story, max_tokens=20, regex=r"[0-9]{3}-[0-9]{4}")["text"][3] == "-"


@pytest.mark.parametrize("dtype, read", [(int, int), (float, float), (bool, {"True": True, "False": False}.get)])
def test_types(dtype, read):
    text = run(story, max_tokens=20, dtype=dtype)["text"]
    assert read(text.strip()) is not None


@pytest.mark.parametrize("method", [None, greedy_token_selection, unconditional_likelihood_normalized])
def test_select(method):
    choices = ["cat", "dog", "house of cards"]
    state = run(story, choices=choices, choices_method=method)
    assert state["text"] in choices
    meta = state.get_meta_info("text")
    for logprobs in (meta["input_token_logprobs"], meta["normalized_prompt_logprobs"]):
        assert len(logprobs) == len(choices)
    assert all(p <= 0 for p in meta["normalized_prompt_logprobs"])
    if method is None:
        best = max(meta["normalized_prompt_logprobs"])
        assert state["text"] == choices[meta["normalized_prompt_logprobs"].index(best)]


def test_select_knows_what_is_likely():
    # What the model itself goes on with is likelier than what it never would.
    said = run(story, max_tokens=6)["text"]
    state = run(story, choices=[said, " xylophones\x01\x02"])
    assert state["text"] == said


def test_logprobs():
    state = run(story, max_tokens=4, return_logprob=True, top_logprobs_num=2, logprob_start_len=0,
                return_text_in_logprobs=True)
    meta = state.get_meta_info("text")
    assert len(meta["input_token_logprobs"]) == meta["prompt_tokens"] and meta["input_token_logprobs"][0][0] is None
    assert len(meta["output_token_logprobs"]) == meta["completion_tokens"]
    assert all(p <= 0 and math.isfinite(p) for p, _, _ in meta["output_token_logprobs"])
    assert "".join(text for _, _, text in meta["output_token_logprobs"]).startswith(state["text"][:1])
    assert all(len(top) == 2 for top in meta["output_top_logprobs"])


@sgl.function
def talk(s, first, second):
    s += sgl.system("Be brief.")
    s += sgl.user(first)
    s += sgl.assistant(sgl.gen("one", max_tokens=8))
    s += sgl.user(second)
    s += sgl.assistant(sgl.gen("two", max_tokens=8))


def test_turns():
    state = run(talk, first="Hello", second="Again")
    assert [m["role"] for m in state.messages()] == ["system", "user", "assistant", "user", "assistant"]
    said = [m["content"] for m in state.messages()]
    assert said[2::2] == [state["one"].strip(), state["two"].strip()]


@sgl.function
def sides(s):
    s += PROMPT
    forks = s.fork(2)
    for fork, word in zip(forks, (" cat", " dog")):
        fork += word
        fork += sgl.gen("side", max_tokens=4)
    s += forks[0]["side"] + forks[1]["side"]


def test_forks():
    state = run(sides)
    assert state.text().startswith(PROMPT)


def test_streams():
    whole = run(talk, first="Hello", second="Again")
    state = talk.run(first="Hello", second="Again", temperature=0, stream=True)
    assert "".join(state.text_iter()) == whole.text()
    state = talk.run(first="Hello", second="Again", temperature=0, stream=True)
    assert "".join(state.text_iter("two")) == whole["two"]


def test_batch():
    prompts = [PROMPT, "a", "The cat"]
    states = story.run_batch([{"prompt": p, "max_tokens": 6} for p in prompts], temperature=0, num_threads=3)
    assert [s["text"] for s in states] == [run(story, prompt=p, max_tokens=6)["text"] for p in prompts]


def test_precached_batches():
    # Of a batch with a long common beginning, the interpreter has the server compute that first.
    @sgl.function
    def long(s, end):
        s += PROMPT * 40
        s += end
        s += sgl.gen("text", max_tokens=2)

    states = long.run_batch([{"end": " cat"}, {"end": " dog"}], temperature=0)
    assert all(s.error() is None for s in states)
    assert states[0].get_meta_info("text")["cached_tokens"] > 0


def test_flush(backend):
    run(story, max_tokens=2)
    sgl.flush_cache()
    assert run(story, max_tokens=2).get_meta_info("text")["cached_tokens"] == 0


def test_refusals_reach_the_program():
    state = story.run(temperature=0, max_tokens=4, regex="(?!a)b")
    with pytest.warns(UserWarning, match="Error in stream_executor"):
        error = state.error()
    assert "regular expression" in str(error)


def test_example(example):
    out = example("sglang_program.py")
    assert out.count("batch: ") == 2 and "title: " in out and "status: " in out
