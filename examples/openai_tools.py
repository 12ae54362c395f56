"""A tool, called by the model and run here. Needs: pip install openai"""

import json
import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


def add(a: int, b: int) -> int:
    return a + b


number = {"type": "integer", "minimum": 0, "maximum": 999}
tool = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Adds two numbers.",
        "parameters": {
            "type": "object",
            "properties": {"a": number, "b": number},
            "required": ["a", "b"],
            "additionalProperties": False,
        },
    },
}
messages = [{"role": "user", "content": "What is 2 + 3?"}]

# "required" has it call a tool. With "auto" the model decides.
reply = client.chat.completions.create(
    model="default", messages=messages, tools=[tool], tool_choice="required", parallel_tool_calls=False, max_tokens=100
)
message = reply.choices[0].message
messages.append(message)
for call in message.tool_calls:
    arguments = json.loads(call.function.arguments)
    result = add(**arguments)
    print(f"call: {call.function.name}({arguments})")
    print("result:", result)
    messages.append({"role": "tool", "tool_call_id": call.id, "content": str(result)})

reply = client.chat.completions.create(
    model="default", messages=messages, tools=[tool], tool_choice="none", max_tokens=60
)
print("answer:", reply.choices[0].message.content)
