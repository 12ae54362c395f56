"""A question, its answer, and the same as a stream. Needs: pip install openai"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)
messages = [{"role": "user", "content": "What is a PEP?"}]

reply = client.chat.completions.create(model="default", messages=messages, max_tokens=100)
print("answer:", reply.choices[0].message.content)
print("tokens:", reply.usage.prompt_tokens, "in,", reply.usage.completion_tokens, "out")

print("streamed: ", end="")
for chunk in client.chat.completions.create(model="default", messages=messages, max_tokens=100, stream=True):
    print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
