//! What the fields take that several routes share, described: see [`crate::openapi`].

use ingle_step::SamplerKind;

use super::chat::TOOLS_MAX;
use super::constraint::{CHOICES_MAX, CONSTRAINT_BYTES_MAX, STRUCTURES_MAX, constraint_fields};
use super::sampling::{
    DRY_BREAKERS_MAX, LOGIT_BIAS_MAX, N_MAX, STOP_BYTES_MAX, STOP_TOKENS_MAX, STOPS_MAX, TOP_LOGPROBS_MAX,
    real_fields, whole_fields,
};
use crate::lora;
use crate::openapi::schema::{
    Object, Schema, any, boolean, either, exactly_false, integer, list, map, matching, number, string,
    token_id, word, words,
};

/// What `lora` is.
pub(crate) const LORA: &str = "The adapters that are added; without it, the one that `model` names, or those that \
                               apply to all.";
pub(crate) const I32_MAX: i128 = i32::MAX as i128;
/// The characters of a function's or a schema's name.
pub(crate) const NAME: &str = "[a-zA-Z0-9_-]";
pub(crate) const DOTTED_NAME: &str = "[a-zA-Z0-9_.-]";

/// A name of so many of these characters.
pub(crate) fn name(of: &str, max: usize) -> Schema {
    matching(&format!("{of}{{1,{max}}}"))
}

/// What a setting of sampling does.
fn about(name: &str) -> &'static str {
    match name {
        "temperature" => "How much chance there is; 0 is greedy.",
        "top_k" => "Only the likeliest so many; 0 and -1 are off.",
        "top_p" => "Only the likeliest that have this probability together.",
        "min_p" => "Only what is at least so likely, relative to the likeliest.",
        "typical_p" | "typ_p" => "Only the most typical that have this probability together; 1 is off.",
        "top_n_sigma" => "Only logits within so many standard deviations of the greatest; -1 is off.",
        "repeat_penalty" | "repetition_penalty" => "Divides the logits of tokens that were there; 1 is off.",
        "repeat_last_n" => "How far penalties look back; -1 is all.",
        "frequency_penalty" => "Lowers a token's logit by this for each time it was there.",
        "presence_penalty" => "Lowers a token's logit by this if it was there.",
        "xtc_probability" => "How often the likeliest are left out.",
        "xtc_threshold" => "Of those that are at least so likely, all but the last are left out.",
        "dynatemp_range" => "How far the temperature moves with the entropy.",
        "dynatemp_exponent" => "How the temperature follows the entropy.",
        "dry_multiplier" => "How much repeated sequences are penalized; 0 is off.",
        "dry_base" => "How that grows with their length.",
        "dry_allowed_length" => "Sequences up to this length are not penalized.",
        "dry_penalty_last_n" => "How far that looks back; -1 is all.",
        "n_keep" | "num_keep" => {
            "Where the context shifts: how many first tokens of the prompt stay; -1 is all."
        }
        "n_discard" => {
            "Where the context shifts: how many tokens make way; 0 is half of those that need not stay."
        }
        "mirostat_tau" => "The surprise that Mirostat aims for.",
        "mirostat_eta" => "How fast Mirostat learns.",
        _ => "",
    }
}

/// How tokens are picked: without them, the model's recommended settings apply.
pub(crate) fn sampling(mut object: Object) -> Object {
    for (name, min, max) in real_fields() {
        object = object.field(name, number(min, max), about(name));
    }
    for (name, min, max) in whole_fields() {
        object = object.field(name, integer(min, max), about(name));
    }
    let mut samplers: Vec<&str> = SamplerKind::DEFAULT_ORDER.iter().map(|kind| kind.name()).collect();
    samplers.push("typical_p");
    let breaker = string().chars(1, 128);
    let bias = || either([number(-100.0, 100.0), exactly_false()]);
    let pair =
        list(any()).with("prefixItems", vec![token_id().into_value(), bias().into_value()]).entries(2, 2);
    let of_id = map()
        .with("propertyNames", matching("[+]?[0-9]+").into_value())
        .with("additionalProperties", bias().into_value())
        .with("maxProperties", LOGIT_BIAS_MAX);
    object
        .fields(&["mirostat", "mirostat_mode"], &integer(0, 2), "Version of Mirostat; 0 is off.")
        .field(
            "context_shift",
            boolean(),
            "Whether an answer goes on in a full context, whose oldest tokens make way; else it ends there.",
        )
        .field("min_keep", integer(0, I32_MAX), "Truncating samplers leave at least so many tokens.")
        .fields(
            &["seed", "sampling_seed"],
            &integer(i128::from(i64::MIN), i128::from(u64::MAX)),
            "Answers repeat for equal seeds; -1 draws one.",
        )
        .field("samplers", list(words(&samplers)), "Their order; each at most once.")
        .field(
            "dry_sequence_breakers",
            list(breaker).entries(0, DRY_BREAKERS_MAX),
            "Where repeated sequences end.",
        )
        .field(
            "logit_bias",
            either([of_id, list(pair).entries(0, LOGIT_BIAS_MAX)]),
            "`{\"ID\": BIAS}` or `[[ID, BIAS]]`; `false` forbids the token.",
        )
}

/// One text, or several.
pub(crate) fn stop() -> Schema {
    let one = || string().chars(1, STOP_BYTES_MAX);
    either([one(), list(one()).entries(0, STOPS_MAX)])
}

/// How tokens are picked, and what ends an answer.
pub(crate) fn generation(object: Object) -> Object {
    let n = || integer(1, i128::from(N_MAX));
    sampling(object)
        .field("n", n(), "How many answers.")
        .field("best_of", n(), "Only if it equals `n`.")
        .field("stop", stop(), "Texts that end the answer; they are not part of it.")
        .field("stop_token_ids", list(token_id()).entries(0, STOP_TOKENS_MAX), "Tokens that end the answer.")
        .fields(
            &["min_tokens", "min_new_tokens"],
            &integer(0, I32_MAX),
            "The answer goes on for at least so many tokens.",
        )
        .field("ignore_eos", boolean(), "The answer goes on past the model's own end.")
        .field("skip_special_tokens", boolean(), "`false` shows control tokens in the text.")
        .field("speculate", boolean(), "`false`: no tokens are guessed ahead. The answer is the same.")
        .field("speculative.n_max", integer(0, I32_MAX), "At most so many tokens are guessed at a time.")
}

/// `model`.
pub(crate) fn model(object: Object) -> Object {
    object.field("model", string(), "Which model; without it, or as `default`, the default one.")
}

/// What all routes that generate share.
pub(crate) fn common(object: Object) -> Object {
    generation(model(object)).field("lora", lora::schema(), LORA).field(
        "prompt_logprobs",
        integer(0, TOP_LOGPROBS_MAX),
        "Log-probabilities of the prompt, with so many alternatives; not while streaming.",
    )
}

/// `stream` and `stream_options`.
pub(crate) fn streaming(object: Object) -> Object {
    let options = Object::new()
        .field("include_usage", boolean(), "A last chunk with the usage.")
        .field("include_obfuscation", exactly_false(), "")
        .field("continuous_usage_stats", exactly_false(), "");
    object.field("stream", boolean(), "Events instead of one body.").field(
        "stream_options",
        options.schema(),
        "",
    )
}

/// A JSON schema, or one that is written as text.
fn schema_or_text() -> Schema {
    either([map(), text()])
}

fn text() -> Schema {
    string().chars(0, CONSTRAINT_BYTES_MAX)
}

fn choices() -> Schema {
    list(string()).entries(1, CHOICES_MAX)
}

fn tag_fields(object: Object) -> Object {
    let structure = Object::new()
        .must("begin", string().with("minLength", 1), "")
        .must("schema", map(), "A JSON schema.")
        .must("end", string(), "");
    object.must("structures", list(structure.schema()).entries(1, STRUCTURES_MAX), "").must(
        "triggers",
        list(string().with("minLength", 1)).entries(1, STRUCTURES_MAX),
        "Where one comes up in the text, a structure that begins with it follows.",
    )
}

fn structural_tag() -> Schema {
    let tag = tag_fields(Object::new().field("type", word("structural_tag"), ""));
    either([tag.schema(), text()])
}

fn response_format() -> Schema {
    let of = |kind: &str| Object::new().must("type", word(kind), "");
    let schema = Object::new()
        .field("name", name(NAME, 64), "")
        .field("description", string(), "")
        .must("schema", map(), "A JSON schema.")
        .field("strict", boolean(), "The schema is enforced in any case.");
    either([
        of("text").schema(),
        of("json_object").field("schema", map(), "A JSON schema.").schema(),
        of("json_schema").must("json_schema", schema.schema(), "").schema(),
        of("json_schema").must("schema", map(), "A JSON schema.").schema(),
        tag_fields(of("structural_tag")).schema(),
    ])
}

fn structured_outputs() -> Schema {
    let outputs = Object::new()
        .field("json", schema_or_text(), "")
        .field("regex", text(), "")
        .field("choice", choices(), "")
        .field("grammar", text(), "")
        .field("json_object", boolean(), "")
        .field("structural_tag", structural_tag(), "")
        .field("disable_any_whitespace", exactly_false(), "")
        .field("disable_additional_properties", exactly_false(), "")
        .field("disable_fallback", exactly_false(), "");
    outputs.schema()
}

/// What the answer's text must obey: at most one of these.
pub(crate) fn constraints(object: Object) -> Object {
    constraint_fields().fold(object, |object, name| {
        let (schema, text) = match name {
            "response_format" => (response_format(), "What the answer is."),
            "structured_outputs" => (structured_outputs(), "The same in vLLM's spelling; one of its fields."),
            "json_schema" | "guided_json" => {
                (schema_or_text(), "JSON of this schema, an object or its text.")
            }
            "regex" | "guided_regex" => (text(), "Text that this expression matches as a whole."),
            "guided_choice" => (choices(), "One of these texts."),
            "grammar" | "ebnf" => (text(), "A sentence of this grammar: GBNF, or Lark after `%llguidance`."),
            "guided_grammar" => (text(), "A sentence of this grammar: GBNF or Lark."),
            "structural_tag" => (structural_tag(), "Free text in which structures follow triggers."),
            // A test compares this with the parser, kind by kind.
            _ => (any(), ""),
        };
        object.field(name, schema, text)
    })
}

/// A function that the model may call, in OpenAI's older, nested shape.
pub(crate) fn nested_tool() -> Schema {
    let function = Object::new()
        .must("name", name(DOTTED_NAME, 64), "")
        .field("description", string(), "")
        .field("parameters", map(), "A JSON schema; without it there are none.")
        .field("strict", boolean(), "Arguments obey the schema.")
        .field("return", map(), "What it gives back, for templates that show it.");
    Object::new()
        .field("type", word("function"), "")
        .must("function", function.schema(), "")
        .field("cache_control", map(), "Without effect.")
        .schema()
}

/// `tools`, as many as there may be.
pub(crate) fn tools(tool: Schema) -> Schema {
    list(tool).entries(0, TOOLS_MAX)
}
