"""Answers that are of a type: the schema is enforced while the answer is generated, so that it always fits, whatever
the model. Needs: pip install openai"""

import os
from typing import Literal

from openai import OpenAI
from pydantic import BaseModel, Field

client = OpenAI(
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
)


class Pep(BaseModel):
    number: int = Field(ge=1, le=9999)
    title: str = Field(max_length=80)
    status: Literal["Draft", "Active", "Final", "Rejected"]


reply = client.chat.completions.parse(
    model="default",
    messages=[{"role": "user", "content": "Give me PEP 703 as JSON."}],
    response_format=Pep,
    max_tokens=200,
)
pep = reply.choices[0].message.parsed
print("pep:", pep.number, pep.title, pep.status)

# A regular expression, a choice or a grammar does as well: fields beside OpenAI's.
reply = client.chat.completions.create(
    model="default",
    messages=[{"role": "user", "content": "How hard is it to write a parser?"}],
    extra_body={"guided_choice": ["easy", "hard"]},
)
print("level:", reply.choices[0].message.content)
