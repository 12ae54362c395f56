"""instructor, over the openai and anthropic packages, against a running server. Nothing here depends on which model it
serves: all that is asked for is enforced."""

from typing import Literal

import anthropic
import instructor
import openai
import pytest
from instructor.core import IncompleteOutputException
from pydantic import BaseModel, ConfigDict, Field

from conftest import API_KEY, BASE_URL, ROOT

MODES = [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA]
GO = [{"role": "user", "content": "Go."}]


class Closed(BaseModel):
    """Of what fields it has, and of no others."""

    model_config = ConfigDict(extra="forbid")


class Place(Closed):
    """A place."""

    city: Literal["Oslo", "Lima"]
    floor: int = Field(ge=0, le=9)


class Trip(Closed):
    """A trip."""

    name: Literal["long", "short"]
    start: Place
    stops: list[Place] = Field(min_length=1, max_length=2)
    note: Literal["none", "some"] | None


@pytest.fixture(params=MODES, ids=lambda mode: mode.name)
def ask(request, model):
    base = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=120)
    patched = instructor.from_openai(base, mode=request.param)

    def ask(method="create", messages=GO, **more):
        options = {"model": model, "max_tokens": 400, "temperature": 0, "max_retries": 0, **more}
        return getattr(patched, method)(messages=messages, **options)

    return ask


@pytest.mark.parametrize("schema", [Place, Trip])
def test_models(ask, schema):
    value = ask(response_model=schema)
    assert isinstance(value, schema)
    again, completion = ask("create_with_completion", response_model=schema)
    assert again.model_dump() == value.model_dump() and completion.usage.completion_tokens > 0


def test_partials(ask):
    partials = list(ask("create_partial", response_model=Trip))
    assert len(partials) > 1, "it comes in pieces"
    Trip.model_validate(partials[-1].model_dump())


def test_lists(ask):
    value = ask(response_model=list[Place], max_tokens=700)
    assert all(isinstance(place, Place) for place in value)


def test_responses(model):
    base = openai.OpenAI(base_url=BASE_URL, api_key=API_KEY or "none", max_retries=0, timeout=120)
    patched = instructor.from_openai(base, mode=instructor.Mode.RESPONSES_TOOLS)
    value = patched.responses.create(model=model, input=GO, response_model=Trip, max_output_tokens=400, max_retries=0)
    assert isinstance(value, Trip)


@pytest.mark.parametrize("schema", [Place, Trip])
def test_anthropic(model, schema):
    base = anthropic.Anthropic(base_url=ROOT, api_key=API_KEY or "none", max_retries=0, timeout=120)
    patched = instructor.from_anthropic(base, mode=instructor.Mode.TOOLS)
    value = patched.create(model=model, messages=GO, response_model=schema, max_tokens=400, max_retries=0)
    assert isinstance(value, schema)


def test_a_cut_answer_is_an_error(ask):
    with pytest.raises(IncompleteOutputException):
        ask(response_model=Trip, max_tokens=3)
