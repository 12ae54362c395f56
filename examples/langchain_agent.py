"""LangChain: a tool that the model calls, run and answered, and an answer of a type.
Needs: pip install langchain-openai"""

import os
from typing import Literal

from langchain_core.messages import HumanMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel

llm = ChatOpenAI(
    model="default",
    base_url=os.environ.get("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1"),
    api_key=os.environ.get("OPENAI_API_KEY", "none"),
    max_tokens=200,
)


@tool
def weather(place: Literal["Oslo", "Lima"]) -> str:
    """The weather at a place."""
    return f"It is dry in {place}."


tools = {weather.name: weather}
messages = [HumanMessage("How is the weather in Oslo?")]
# The first turn has to call a tool; in the second it may answer.
for choice in ("any", "none"):
    # Strict: the arguments are what the tool takes, and nothing besides.
    bound = llm.bind_tools(list(tools.values()), tool_choice=choice, strict=True, parallel_tool_calls=False)
    message = bound.invoke(messages)
    messages.append(message)
    for call in message.tool_calls:
        result = tools[call["name"]].invoke(call)
        print("tool:", call["name"], call["args"], "->", result.content)
        messages.append(result)
print("answer:", messages[-1].content)


class Opinion(BaseModel):
    level: Literal["easy", "hard"]


prompt = ChatPromptTemplate.from_template("How hard is it to write {what}?")
chain = prompt | llm.with_structured_output(Opinion, method="json_schema")
print("structured:", chain.invoke({"what": "a parser"}))
