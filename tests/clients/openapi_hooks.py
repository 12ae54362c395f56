"""What schemathesis does besides: loaded by test_openapi.py."""

import os

import schemathesis
from schemathesis.specs.openapi.checks import negative_data_rejection

# Lists and texts of more entries make bodies of megabytes, which take most of the time and are all refused alike.
ENTRIES_MAX = 64

# Fields that can contradict others, as a description cannot say: names of the same setting, several constraints, what
# depends on the model or on tools. Bodies that have all fields, as most made-up ones do, are refused for these before
# anything else is looked at. With INGLE_OPENAPI_PLAIN they are left out, and most bodies get an answer.
CONTRADICTING = set(
    """
    max_completion_tokens typ_p repetition_penalty mirostat_mode sampling_seed min_tokens min_new_tokens best_of
    structured_outputs json_schema guided_json regex guided_regex guided_choice grammar ebnf guided_grammar
    structural_tag output_format generate_summary
    reasoning_effort reasoning reasoning_content think enable_thinking thinking thinking_token_budget
    thinking_budget_tokens include_reasoning separate_reasoning reasoning_format effort
    top_logprobs prompt_logprobs logprob_start_len top_logprobs_num
    continue_final_message add_generation_prompt previous_response_id model stop_token_ids logit_bias num_ctx samplers
    tool_choice tool_calls tool_name raw keep_alive
    """.split()
)


# Who gives no time is refused with a status that stands for a server which has too much to do.
DEADLINES = ("x-request-timeout", "x-queue-timeout")


@schemathesis.hook
def before_load_schema(ctx, raw_schema):
    """Leaves out bounds that are far away: that they hold is tested beside each parser. And deadlines."""
    schemas = raw_schema["components"]["schemas"]
    simplify(schemas)
    shared = raw_schema["components"].get("parameters", {})
    deadlines = [f"#/components/parameters/{key}" for key, p in shared.items() if p["name"].lower() in DEADLINES]
    for operation in (o for path in raw_schema["paths"].values() for o in path.values()):
        if isinstance(operation, dict) and "parameters" in operation:
            kept = [p for p in operation["parameters"] if p.get("$ref") not in deadlines]
            operation["parameters"] = kept
    if os.environ.get("INGLE_OPENAPI_PLAIN"):
        for name, schema in schemas.items():
            if name.endswith("Request"):
                leave_out_contradicting(schema)


def simplify(value):
    if isinstance(value, dict):
        for name in ("maxItems", "maxLength", "maxProperties"):
            bound = value.get(name)
            if isinstance(bound, int) and bound > ENTRIES_MAX:
                del value[name]
    for inner in children(value):
        simplify(inner)


def leave_out_contradicting(value):
    if isinstance(value, dict) and isinstance(value.get("properties"), dict):
        for name in CONTRADICTING - set(value.get("required", [])):
            value["properties"].pop(name, None)
    for inner in children(value):
        leave_out_contradicting(inner)


def children(value):
    if isinstance(value, dict):
        return list(value.values())
    return value if isinstance(value, list) else []


def has_null_field(value):
    if isinstance(value, dict) and None in value.values():
        return True
    return any(has_null_field(inner) for inner in children(value))


@schemathesis.check
def what_is_not_described_is_refused(ctx, response, case):
    """Except for fields that are null: they count as absent, those that are not described included. And except for forms,
    whose fields are bytes and not of a type."""
    if not has_null_field(case.body) and case.media_type != "multipart/form-data":
        negative_data_rejection(ctx, response, case)


@schemathesis.check
def described_fields_are_known(ctx, response, case):
    """A field that the description has is never an unknown one."""
    meta = case.meta
    if meta is not None and meta.generation.mode.is_positive and response.status_code == 400:
        assert "unknown field" not in response.text, f"described and not taken: {response.text}"
