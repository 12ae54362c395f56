//! The fields that both routes share: sampling, stops, limits.

use ingle_chat::{Prompt, Request, Sampling, Task};
use ingle_step::{SamplerKind, TokenId};
use serde_json::Value;

use crate::RequestError;
use crate::error::quoted;
use crate::fields::{Fields, integer, wrong_type};
use crate::lora::take_lora;

/// The most answers to one prompt.
pub const N_MAX: u32 = 128;
/// The most stop strings.
pub const STOPS_MAX: usize = 64;
/// The longest stop string in bytes.
pub const STOP_BYTES_MAX: usize = 1024;
/// The most stop tokens.
pub const STOP_TOKENS_MAX: usize = 1024;
/// The most biased tokens.
pub const LOGIT_BIAS_MAX: usize = 65_536;
/// The most alternatives reported per token.
pub const TOP_LOGPROBS_MAX: i128 = 20;
/// The most DRY sequence breakers, and their length in bytes.
pub const DRY_BREAKERS_MAX: usize = 64;
const DRY_BREAKER_BYTES_MAX: usize = 128;

const I32_MAX: i128 = i32::MAX as i128;

/// A field that is a real number: its names, its range, where it goes.
struct Real(&'static [&'static str], f64, f64, fn(&mut Sampling) -> &mut Option<f32>);

/// A field that is a whole number.
struct Whole(&'static [&'static str], i128, i128, fn(&mut Sampling) -> &mut Option<i32>);

/// Ranges are those within which every sampler is well defined; "off" values are inside.
const REALS: &[Real] = &[
    Real(&["temperature"], 0.0, 100.0, |s| &mut s.temperature),
    Real(&["dynatemp_range"], 0.0, 100.0, |s| &mut s.dynatemp_range),
    Real(&["dynatemp_exponent"], 0.0, 100.0, |s| &mut s.dynatemp_exponent),
    Real(&["top_p"], 0.0, 1.0, |s| &mut s.top_p),
    Real(&["min_p"], 0.0, 1.0, |s| &mut s.min_p),
    Real(&["typical_p", "typ_p"], 0.0, 1.0, |s| &mut s.typical_p),
    Real(&["top_n_sigma"], -1.0, 1000.0, |s| &mut s.top_n_sigma),
    Real(&["xtc_probability"], 0.0, 1.0, |s| &mut s.xtc_probability),
    Real(&["xtc_threshold"], 0.0, 1.0, |s| &mut s.xtc_threshold),
    Real(&["repeat_penalty", "repetition_penalty"], 0.01, 100.0, |s| &mut s.repeat_penalty),
    Real(&["frequency_penalty"], -2.0, 2.0, |s| &mut s.frequency_penalty),
    Real(&["presence_penalty"], -2.0, 2.0, |s| &mut s.presence_penalty),
    Real(&["dry_multiplier"], 0.0, 100.0, |s| &mut s.dry_multiplier),
    Real(&["dry_base"], 0.0, 100.0, |s| &mut s.dry_base),
    Real(&["mirostat_tau"], 0.0, 100.0, |s| &mut s.mirostat_tau),
    Real(&["mirostat_eta"], 0.0, 1.0, |s| &mut s.mirostat_eta),
];

const WHOLES: &[Whole] = &[
    Whole(&["top_k"], -1, I32_MAX, |s| &mut s.top_k),
    Whole(&["repeat_last_n"], -1, I32_MAX, |s| &mut s.repeat_last_n),
    Whole(&["dry_allowed_length"], 0, I32_MAX, |s| &mut s.dry_allowed_length),
    Whole(&["dry_penalty_last_n"], -1, I32_MAX, |s| &mut s.dry_penalty_last_n),
    Whole(&["n_keep", "num_keep"], -1, I32_MAX, |s| &mut s.n_keep),
    Whole(&["n_discard"], 0, I32_MAX, |s| &mut s.n_discard),
];

/// Names of the fields that are real numbers, with their ranges.
pub(super) fn real_fields() -> impl Iterator<Item = (&'static str, f64, f64)> {
    REALS.iter().flat_map(|f| f.0.iter().map(|n| (*n, f.1, f.2)))
}

/// Names of the fields that are whole numbers, with their ranges.
pub(super) fn whole_fields() -> impl Iterator<Item = (&'static str, i128, i128)> {
    WHOLES.iter().flat_map(|f| f.0.iter().map(|n| (*n, f.1, f.2)))
}

/// Names of the fields that are numbers, with their ranges: for documentation and tests.
pub fn numeric_fields() -> impl Iterator<Item = (&'static str, f64, f64)> {
    real_fields().chain(whole_fields().map(|(name, min, max)| (name, min as f64, max as f64)))
}

/// Takes the shared fields into `request`.
pub(crate) fn take_common(fields: &mut Fields, request: &mut Request) -> Result<(), RequestError> {
    request.model = take_model(fields)?;
    request.adapters = take_lora(fields)?;
    take_generation(fields, request)?;
    request.prompt_logprobs = fields.integer(&["prompt_logprobs"], 0, TOP_LOGPROBS_MAX)?.map(|k| k as u32);
    Ok(())
}

/// Takes `model`; an empty name is none.
pub(crate) fn take_model(fields: &mut Fields) -> Result<Option<String>, RequestError> {
    Ok(fields.string("model")?.filter(|m| !m.is_empty()))
}

/// Takes how tokens are picked, and what ends an answer.
pub(crate) fn take_generation(fields: &mut Fields, request: &mut Request) -> Result<(), RequestError> {
    take_sampling(fields, &mut request.sampling)?;
    if let Some(n) = fields.integer(&["n"], 1, i128::from(N_MAX))? {
        request.n = n as u32;
    }
    if let Some(best_of) = fields.integer(&["best_of"], 1, i128::from(N_MAX))?
        && best_of != i128::from(request.n)
    {
        return Err(fields
            .error("best_of", "`best_of` is not supported unless it equals `n`; remove it")
            .with_code("unsupported_value"));
    }
    request.stop = take_stop(fields, "stop")?;
    let path = fields.path("stop_token_ids");
    request.stop_token_ids = match fields.list("stop_token_ids")? {
        None => Vec::new(),
        Some(list) if list.len() > STOP_TOKENS_MAX => {
            return Err(fields.error(
                "stop_token_ids",
                format!("`{path}` has {} entries; at most {STOP_TOKENS_MAX} are taken", list.len()),
            ));
        }
        Some(list) => token_ids(&list, &path)?,
    };
    if let Some(min) = fields.integer(&["min_tokens", "min_new_tokens"], 0, I32_MAX)? {
        request.min_tokens = min as u32;
        if request.max_tokens.is_some_and(|max| request.min_tokens > max) {
            return Err(fields.error(
                "min_tokens",
                format!("`min_tokens` is {min}, more than `max_tokens`; give a smaller one"),
            ));
        }
    }
    request.ignore_eos = fields.bool("ignore_eos")?.unwrap_or(false);
    request.include_special = !fields.bool("skip_special_tokens")?.unwrap_or(true);
    request.speculate = fields.bool("speculate")?.unwrap_or(true);
    request.draft_max = fields.integer(&["speculative.n_max"], 0, I32_MAX)?.map(|v| v as u32);
    Ok(())
}

/// Takes the token limit under any of its names; given several times they must agree.
pub(crate) fn take_max_tokens(
    fields: &mut Fields,
    names: &[&str],
    min: i128,
) -> Result<Option<u32>, RequestError> {
    Ok(fields.integer(names, min, I32_MAX)?.map(|v| v as u32))
}

/// Takes the fields that say how tokens are picked.
pub(crate) fn take_sampling(fields: &mut Fields, sampling: &mut Sampling) -> Result<(), RequestError> {
    for Real(names, min, max, slot) in REALS {
        *slot(sampling) = fields.number(names, *min, *max)?;
    }
    for Whole(names, min, max, slot) in WHOLES {
        *slot(sampling) = fields.integer(names, *min, *max)?.map(|v| v as i32);
    }
    // The smallest set with no probability at all is the best token alone; samplers are given a positive share.
    for share in [&mut sampling.top_p, &mut sampling.typical_p].into_iter().flatten() {
        *share = share.max(f32::MIN_POSITIVE);
    }
    sampling.mirostat = fields.integer(&["mirostat", "mirostat_mode"], 0, 2)?.map(|v| v as u8);
    sampling.context_shift = fields.bool("context_shift")?;
    sampling.min_keep = fields.integer(&["min_keep"], 0, I32_MAX)?.map(|v| v as usize);
    // -1 means "draw one", as llama.cpp's users write it; other negative numbers are seeds like any other.
    sampling.seed =
        match fields.integer(&["seed", "sampling_seed"], i128::from(i64::MIN), i128::from(u64::MAX))? {
            None | Some(-1) => None,
            Some(v) => Some(v as u64),
        };
    sampling.order = take_order(fields)?;
    sampling.dry_sequence_breakers = take_breakers(fields)?;
    sampling.logit_bias = take_logit_bias(fields)?;
    Ok(())
}

fn take_order(fields: &mut Fields) -> Result<Option<Vec<SamplerKind>>, RequestError> {
    let Some(list) = fields.list("samplers")? else { return Ok(None) };
    let known = || SamplerKind::DEFAULT_ORDER.map(SamplerKind::name).join(", ");
    let mut order = Vec::new();
    for (i, value) in list.iter().enumerate() {
        let path = format!("samplers[{i}]");
        let name = value.as_str().ok_or_else(|| wrong_type(&path, "the name of a sampler", value))?;
        let name = if name == "typical_p" { "typ_p" } else { name };
        let kind = SamplerKind::DEFAULT_ORDER.into_iter().find(|k| k.name() == name).ok_or_else(|| {
            RequestError::field(&path, format!("{} is no sampler; there are {}", quoted(name), known()))
        })?;
        if order.contains(&kind) {
            return Err(RequestError::field(&path, format!("`{name}` is in `samplers` twice")));
        }
        order.push(kind);
    }
    Ok(Some(order))
}

fn take_breakers(fields: &mut Fields) -> Result<Option<Vec<String>>, RequestError> {
    let Some(list) = fields.list("dry_sequence_breakers")? else { return Ok(None) };
    if list.len() > DRY_BREAKERS_MAX {
        return Err(fields.error(
            "dry_sequence_breakers",
            format!(
                "`dry_sequence_breakers` has {} entries; at most {DRY_BREAKERS_MAX} are taken",
                list.len()
            ),
        ));
    }
    let entry = |(i, value): (usize, Value)| {
        let path = format!("dry_sequence_breakers[{i}]");
        match value {
            Value::String(s) if (1..=DRY_BREAKER_BYTES_MAX).contains(&s.len()) => Ok(s),
            Value::String(s) => Err(RequestError::field(
                &path,
                format!("`{path}` has {} bytes; 1 to {DRY_BREAKER_BYTES_MAX} are taken", s.len()),
            )),
            other => Err(wrong_type(&path, "a string", &other)),
        }
    };
    list.into_iter().enumerate().map(entry).collect::<Result<_, _>>().map(Some)
}

/// Takes stop strings under the name that a dialect has for them: one, or a list.
pub(crate) fn take_stop(fields: &mut Fields, name: &str) -> Result<Vec<String>, RequestError> {
    let path = fields.path(name);
    let list = match fields.take(name) {
        None => return Ok(Vec::new()),
        Some(single @ Value::String(_)) => vec![single],
        Some(Value::Array(list)) => list,
        Some(other) => return Err(wrong_type(&path, "a string or a list of strings", &other)),
    };
    if list.len() > STOPS_MAX {
        return Err(RequestError::field(
            &path,
            format!("`{path}` has {} entries; at most {STOPS_MAX} are taken", list.len()),
        ));
    }
    let entry = |value: Value| match value {
        Value::String(s) if s.is_empty() => {
            Err(RequestError::field(&path, "a stop string must not be empty; remove it"))
        }
        Value::String(s) if s.len() > STOP_BYTES_MAX => Err(RequestError::field(
            &path,
            format!("a stop string has {} bytes; at most {STOP_BYTES_MAX} are taken", s.len()),
        )),
        Value::String(s) => Ok(s),
        other => Err(wrong_type(&path, "a string or a list of strings", &other)),
    };
    list.into_iter().map(entry).collect()
}

/// A token id; whether the vocabulary has it is checked later, when the model is known.
pub(crate) fn token_id(value: &Value, path: &str) -> Result<TokenId, RequestError> {
    let number = match value {
        Value::Number(number) => number,
        other => return Err(wrong_type(path, "a token id", other)),
    };
    integer(number)
        .and_then(|v| u32::try_from(v).ok())
        .map(TokenId)
        .ok_or_else(|| RequestError::field(path, format!("`{path}` must be a token id, not {number}")))
}

/// Token ids, each as [`token_id`] takes it.
pub(crate) fn token_ids(list: &[Value], path: &str) -> Result<Vec<TokenId>, RequestError> {
    let entry = |(i, v): (usize, &Value)| token_id(v, &format!("{path}[{i}]"));
    list.iter().enumerate().map(entry).collect()
}

/// `{"50256": -100}`, as OpenAI writes it, or `[[50256, -100], [50257, false]]`, as llama.cpp does.
fn take_logit_bias(fields: &mut Fields) -> Result<Vec<(TokenId, f32)>, RequestError> {
    const NAME: &str = "logit_bias";
    let entries: Vec<(TokenId, Value)> = match fields.take(NAME) {
        None => return Ok(Vec::new()),
        Some(Value::Object(map)) => map
            .into_iter()
            .map(|(key, bias)| match key.parse() {
                Ok(id) => Ok((TokenId(id), bias)),
                Err(_) => Err(RequestError::field(
                    NAME,
                    format!("the keys of `{NAME}` must be token ids, not {}", quoted(&key)),
                )),
            })
            .collect::<Result<_, _>>()?,
        Some(Value::Array(list)) => list
            .into_iter()
            .enumerate()
            .map(|(i, pair)| {
                let path = format!("{NAME}[{i}]");
                match pair {
                    Value::Array(mut pair) if pair.len() == 2 => {
                        let bias = pair.pop().unwrap_or_default();
                        Ok((token_id(&pair[0], &format!("{path}[0]"))?, bias))
                    }
                    other => Err(wrong_type(&path, "a pair of token id and bias", &other)),
                }
            })
            .collect::<Result<_, _>>()?,
        Some(other) => return Err(wrong_type(NAME, "an object from token id to bias", &other)),
    };
    if entries.len() > LOGIT_BIAS_MAX {
        return Err(RequestError::field(
            NAME,
            format!("`{NAME}` has {} entries; at most {LOGIT_BIAS_MAX} are taken", entries.len()),
        ));
    }
    let mut biases: Vec<(TokenId, f32)> = Vec::with_capacity(entries.len());
    for (id, bias) in entries {
        let bias = match &bias {
            Value::Bool(false) => f32::NEG_INFINITY,
            Value::Number(n) if n.as_f64().is_some_and(|v| (-100.0..=100.0).contains(&v)) => {
                n.as_f64().unwrap_or_default() as f32
            }
            Value::Number(n) => {
                return Err(RequestError::field(
                    NAME,
                    format!("the bias of token {id} in `{NAME}` must be from -100 to 100, not {n}"),
                ));
            }
            other => {
                return Err(wrong_type(NAME, "made of numbers from -100 to 100, or false to forbid", other));
            }
        };
        biases.push((id, bias));
    }
    biases.sort_by_key(|(id, _)| *id);
    match biases.windows(2).find(|w| w[0].0 == w[1].0) {
        Some(twice) => {
            Err(RequestError::field(NAME, format!("token {} is in `{NAME}` twice; give it once", twice[0].0)))
        }
        None => Ok(biases),
    }
}

/// Checks every token id of a request against the vocabulary of the model that will answer it.
pub fn check_vocabulary(request: &Request, n_vocab: usize) -> Result<(), RequestError> {
    let prompt: &[TokenId] = match &request.task {
        Task::Completion { prompt: Prompt::Tokens(ids), .. } => ids,
        _ => &[],
    };
    let biased = request.sampling.logit_bias.iter().map(|(id, _)| ("logit_bias", *id));
    let stops = request.stop_token_ids.iter().map(|id| ("stop_token_ids", *id));
    let all = biased.chain(stops).chain(prompt.iter().map(|id| ("prompt", *id)));
    match all.into_iter().find(|(_, id)| id.0 as usize >= n_vocab) {
        Some((param, id)) => Err(RequestError::field(
            param,
            format!("token {id} in `{param}` is not in the model's vocabulary of {n_vocab} tokens"),
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use ingle_chat::Principal;
    use serde_json::json;

    use super::*;
    use crate::openai::{Caller, chat};

    fn read(more: Value) -> Request {
        let mut body = json!({ "messages": [{ "role": "user", "content": "hi" }] });
        body.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let caller = Caller { id: "id".into(), principal: Principal::local() };
        chat::parse(body.to_string().as_bytes(), caller).expect("valid").request
    }

    /// Every field, under each of its names, sets what it should and nothing else.
    #[track_caller]
    fn check(names: &[&str], value: Value, set: impl Fn(&mut Request)) {
        let mut expected = read(json!({}));
        set(&mut expected);
        assert_ne!(expected, read(json!({})), "{names:?} changes something");
        for name in names {
            let mut more = json!({});
            more[*name] = value.clone();
            assert_eq!(read(more), expected, "{name}");
        }
        let all: serde_json::Map<_, _> = names.iter().map(|n| ((*n).to_owned(), value.clone())).collect();
        assert_eq!(read(Value::Object(all)), expected, "{names:?} together");
    }

    #[test]
    fn fields_set_what_they_say() {
        check(&["temperature"], json!(0.5), |r| r.sampling.temperature = Some(0.5));
        check(&["dynatemp_range"], json!(0.5), |r| r.sampling.dynatemp_range = Some(0.5));
        check(&["dynatemp_exponent"], json!(2), |r| r.sampling.dynatemp_exponent = Some(2.0));
        check(&["top_k"], json!(7), |r| r.sampling.top_k = Some(7));
        check(&["top_p"], json!(0.5), |r| r.sampling.top_p = Some(0.5));
        check(&["top_p"], json!(0), |r| r.sampling.top_p = Some(f32::MIN_POSITIVE));
        check(&["min_p"], json!(0.5), |r| r.sampling.min_p = Some(0.5));
        check(&["typical_p", "typ_p"], json!(0.5), |r| r.sampling.typical_p = Some(0.5));
        check(&["top_n_sigma"], json!(1.5), |r| r.sampling.top_n_sigma = Some(1.5));
        check(&["xtc_probability"], json!(0.5), |r| r.sampling.xtc_probability = Some(0.5));
        check(&["xtc_threshold"], json!(0.25), |r| r.sampling.xtc_threshold = Some(0.25));
        let names = ["repeat_penalty", "repetition_penalty"];
        check(&names, json!(1.5), |r| r.sampling.repeat_penalty = Some(1.5));
        check(&["repeat_last_n"], json!(-1), |r| r.sampling.repeat_last_n = Some(-1));
        check(&["frequency_penalty"], json!(-2), |r| r.sampling.frequency_penalty = Some(-2.0));
        check(&["presence_penalty"], json!(2), |r| r.sampling.presence_penalty = Some(2.0));
        check(&["dry_multiplier"], json!(0.5), |r| r.sampling.dry_multiplier = Some(0.5));
        check(&["dry_base"], json!(1.5), |r| r.sampling.dry_base = Some(1.5));
        check(&["dry_allowed_length"], json!(3), |r| r.sampling.dry_allowed_length = Some(3));
        check(&["dry_penalty_last_n"], json!(9), |r| r.sampling.dry_penalty_last_n = Some(9));
        check(&["context_shift"], json!(true), |r| r.sampling.context_shift = Some(true));
        check(&["n_keep", "num_keep"], json!(-1), |r| r.sampling.n_keep = Some(-1));
        check(&["n_discard"], json!(64), |r| r.sampling.n_discard = Some(64));
        let breakers = || vec!["\n".to_owned(), "é".to_owned()];
        check(&["dry_sequence_breakers"], json!(["\n", "é"]), |r| {
            r.sampling.dry_sequence_breakers = Some(breakers());
        });
        check(&["mirostat", "mirostat_mode"], json!(2), |r| r.sampling.mirostat = Some(2));
        check(&["mirostat_tau"], json!(4), |r| r.sampling.mirostat_tau = Some(4.0));
        check(&["mirostat_eta"], json!(0.5), |r| r.sampling.mirostat_eta = Some(0.5));
        check(&["min_keep"], json!(3), |r| r.sampling.min_keep = Some(3));
        check(&["samplers"], json!(["top_k", "typical_p", "temperature"]), |r| {
            r.sampling.order = Some(vec![SamplerKind::TopK, SamplerKind::TypicalP, SamplerKind::Temperature]);
        });
        check(&["seed", "sampling_seed"], json!(5.0), |r| r.sampling.seed = Some(5));
        check(&["seed"], json!(u64::MAX), |r| r.sampling.seed = Some(u64::MAX));
        check(&["max_tokens", "max_completion_tokens"], json!(5), |r| r.max_tokens = Some(5));
        check(&["min_tokens", "min_new_tokens"], json!(5), |r| r.min_tokens = 5);
        check(&["n", "best_of"][..1], json!(5), |r| r.n = 5);
        check(&["stop"], json!("x"), |r| r.stop = vec!["x".into()]);
        check(&["stop"], json!(["x", "yz"]), |r| r.stop = vec!["x".into(), "yz".into()]);
        check(&["stop_token_ids"], json!([3, 4]), |r| r.stop_token_ids = vec![TokenId(3), TokenId(4)]);
        check(&["ignore_eos"], json!(true), |r| r.ignore_eos = true);
        check(&["speculate"], json!(false), |r| r.speculate = false);
        check(&["speculative.n_max"], json!(3), |r| r.draft_max = Some(3));
        check(&["skip_special_tokens"], json!(false), |r| r.include_special = true);
        check(&["logprobs"], json!(true), |r| r.logprobs = Some(0));
        check(&["prompt_logprobs"], json!(2), |r| r.prompt_logprobs = Some(2));
        check(&["model"], json!("m"), |r| r.model = Some("m".into()));
        assert_eq!(read(json!({ "logprobs": true, "top_logprobs": 4 })).logprobs, Some(4));
        assert_eq!(read(json!({ "seed": -1 })).sampling.seed, None, "-1 draws one");
        assert_eq!(read(json!({ "seed": -2 })).sampling.seed, Some(u64::MAX - 1));
    }

    #[test]
    fn logit_bias_in_both_shapes() {
        let expected = vec![(TokenId(3), f32::NEG_INFINITY), (TokenId(50), -1.5)];
        for bias in [json!({ "50": -1.5, "3": false }), json!([[50, -1.5], [3, false]])] {
            assert_eq!(read(json!({ "logit_bias": bias })).sampling.logit_bias, expected);
        }
    }
}
