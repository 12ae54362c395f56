"""The Responses API: a streamed answer, and a second question that continues the first, whose conversation the server
keeps. Needs: pip install openai"""

import os

from openai import OpenAI

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)

print("first: ", end="")
with client.responses.stream(model="default", input="Who wrote PEP 20?", max_output_tokens=60) as stream:
    for event in stream:
        if event.type == "response.output_text.delta":
            print(event.delta, end="", flush=True)
    first = stream.get_final_response()
print()

second = client.responses.create(
    model="default", input="What is PEP 484 about?", previous_response_id=first.id, max_output_tokens=60
)
print("second:", second.output_text)
