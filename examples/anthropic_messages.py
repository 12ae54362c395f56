"""Anthropic's messages: an answer, a stream, a tool that is called. Needs: pip install anthropic"""

import os

from anthropic import Anthropic

client = Anthropic(
    # Without /v1: the package adds it.
    base_url=os.environ.get("ANTHROPIC_BASE_URL", "http://127.0.0.1:8080"),
    api_key=os.environ.get("ANTHROPIC_API_KEY", "none"),
)
messages = [{"role": "user", "content": "What is a PEP?"}]

message = client.messages.create(model="default", max_tokens=100, messages=messages)
print("answer:", message.content[0].text)

print("streamed: ", end="")
with client.messages.stream(model="default", max_tokens=100, messages=messages) as stream:
    for text in stream.text_stream:
        print(text, end="", flush=True)
print()

tool = {
    "name": "find_pep",
    "description": "Finds a PEP by its number.",
    "input_schema": {
        "type": "object",
        "properties": {"number": {"type": "integer", "minimum": 1, "maximum": 9999}},
        "required": ["number"],
        "additionalProperties": False,
    },
}
message = client.messages.create(
    model="default", max_tokens=100, messages=messages, tools=[tool], tool_choice={"type": "any"}
)
for block in message.content:
    if block.type == "tool_use":
        print("call:", block.name, block.input)
