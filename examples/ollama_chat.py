"""Ollama's package: an answer, a stream, an answer of a schema. Needs: pip install ollama"""

import os
from typing import Literal

from ollama import Client
from pydantic import BaseModel

# Its own default is another port than ours. It reads its key, if there is one, from OLLAMA_API_KEY.
client = Client(host=os.environ.get("OLLAMA_HOST", "http://127.0.0.1:8080"))
messages = [{"role": "user", "content": "What is a PEP?"}]

reply = client.chat("default", messages, options={"num_predict": 100})
print("answer:", reply.message.content)

print("streamed: ", end="")
for part in client.chat("default", messages, options={"num_predict": 100}, stream=True):
    print(part.message.content, end="", flush=True)
print()


class Opinion(BaseModel):
    level: Literal["easy", "hard"]


question = [{"role": "user", "content": "How hard is it to write a parser?"}]
reply = client.chat("default", question, format=Opinion.model_json_schema())
print("level:", Opinion.model_validate_json(reply.message.content).level)
