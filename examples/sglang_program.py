"""A program in SGLang's frontend language: text, what the model says within it, choices by their probability, and
branches that run beside each other. Needs: pip install sglang==0.4.10 --no-deps, and what its frontend imports:
see tests/clients/sglang_frontend/requirements.txt"""

import os

import sglang as sgl

sgl.set_default_backend(
    sgl.RuntimeEndpoint(
        os.environ.get("SGLANG_BASE_URL", "http://127.0.0.1:8080"), api_key=os.environ.get("SGLANG_API_KEY")
    )
)


@sgl.function
def review(s, topic):
    s += f"PEP {topic} is titled "
    s += sgl.gen("title", regex='"[A-Za-z ]{1,40}"', temperature=0)
    s += ". Its status is " + sgl.select("status", choices=["Draft", "Final", "Rejected"])
    s += ". It is "
    sides = s.fork(2)
    for side, word in zip(sides, ("good", "bad")):
        side += f"{word} because "
        side += sgl.gen("why", max_tokens=12, temperature=0, stop=".")
    s += "good because " + sides[0]["why"] + ", and bad because " + sides[1]["why"]


state = review.run(topic=484)
print("title:", state["title"])
print("status:", state["status"])
print("text:", state.text())

for state in review.run_batch([{"topic": 8}, {"topic": 20}]):
    print("batch:", state["title"], state["status"])
