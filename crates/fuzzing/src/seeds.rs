//! Inputs to start from: each target's usual cases, made here so that they follow the formats.

use ingle_chat::template::{BUILTIN_TEMPLATES, builtin_template};
use ingle_gguf::{Array, GgufWriter, TensorType, Value};
use ingle_store::bundle::{BlobSource, BundledModel, Imprint, Plan, SecretKey, Source};
use ingle_store::{Digest, Layer, Manifest, MediaType};
use ingle_testkit::rng::Rng;
use ingle_testkit::tiny::CHATML;

/// Every seed: target, name, bytes.
pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut put = |target, name: &str, bytes: Vec<u8>| seeds.push((target, name.to_owned(), bytes));
    for (name, key) in [("unsigned", None), ("signed", Some(SecretKey::from_seed(&[7; 32])))] {
        let bundle = small_bundle(key.as_ref());
        put("bundle", name, [&[0], &bundle[..]].concat());
        if key.is_none() {
            let index_bytes = &bundle[12..14];
            put("bundle", "index", [&[1], index_bytes, &bundle[48..]].concat());
        }
    }
    for (i, text) in NAMES.iter().enumerate() {
        put("names", &i.to_string(), text.as_bytes().to_vec());
    }
    put("manifest", "small", small_manifest().to_bytes());
    for (name, body) in BODIES {
        put("chat_request", name, body.as_bytes().to_vec());
    }
    for (name, kind, format) in FORMATS {
        for (at, walk) in [[0; 40], std::array::from_fn(|i| (i * 89 + 7) as u8)].iter().enumerate() {
            let head = [*kind, walk.len() as u8];
            put("grammar", &format!("{name}-{at}"), [&head[..], walk, format.as_bytes()].concat());
        }
    }
    put("gguf", "every-type", every_value_type().to_bytes());
    put("gguf", "tensors", tensors().to_bytes());
    put("model_header", "no-tensors", every_value_type().to_bytes());
    for (name, source) in TEMPLATES {
        put("template_source", name, source.as_bytes().to_vec());
    }
    put("template_source", "tiny", CHATML.as_bytes().to_vec());
    for name in BUILTIN_TEMPLATES.iter().step_by(4) {
        let source = builtin_template(name).expect("it is in the list");
        put("template_source", name, source.as_bytes().to_vec());
    }
    for vocabulary in 0..22u8 {
        let mut data = vec![vocabulary, 1];
        data.extend("Hello hello  an\n\n12345 é 中文 e\u{301}'s ▁<think>".as_bytes());
        data.extend(b"\xff<|im_start|>\xffab</s>\xf0\x9f\xff<|im_end|>\n");
        put("tokenize", &format!("vocabulary-{vocabulary}"), data);
        let mut ids = vec![vocabulary, 0];
        ids.extend([7, 9, 1, 11 + 0xF0, 11 + 0x9F, 3, 11 + 0x98, 11 + 0x80, 11 + 0xE2, 11 + 0x82, 11 + b'x']);
        put("detokenizer", &format!("vocabulary-{vocabulary}"), ids);
    }
    for (target, name, bytes) in crate::adapters::seeds().into_iter().chain(crate::checkpoint::seeds()) {
        put(target, name, bytes);
    }
    // The other formats are choices: random ones reach everything.
    for seed in 0..8 {
        for target in [
            "adapter_gguf",
            "adapter_peft",
            "chat_request",
            "checkpoint",
            "model_header",
            "model_output",
            "scheduler",
            "template_vars",
            "tokenizer_metadata",
        ] {
            let mut rng = Rng::new(seed);
            let n = 32 + rng.below(160);
            let data = (0..n).map(|_| rng.next_u64() as u8).collect();
            put(target, &format!("random-{seed}"), data);
        }
    }
    seeds
}

/// What is meant by a name, a digest or an address.
const NAMES: &[&str] = &[
    "llama3.1:8b",
    "registry.example:5000/team/model:tag",
    "hf.co/user/repo@rev:Q4_K_M",
    "hf://user/repo/folder/file-00001-of-00002.gguf",
    "https://huggingface.co/u/r/blob/main/x.gguf?download=true",
    "https://hub.example:8443/a/b.gguf?x#y",
    "https://[::ffff:7f00:1]/x",
    "http://0x7f.1/",
    "*.example.org:80",
    "./model.gguf",
    "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
];

/// A manifest with annotations.
fn small_manifest() -> Manifest {
    let layer = |kind, bytes: &[u8]| Layer::new(kind, Digest::of(bytes), bytes.len() as u64);
    let layers =
        vec![layer(MediaType::Model, b"weights").with_file("x.gguf"), layer(MediaType::License, b"MIT")];
    let mut manifest = Manifest::new(layer(MediaType::Config, b"{}"), layers);
    manifest.annotations.insert("dev.ingle.source".into(), "hf.co/u/r".into());
    manifest
}

/// A bundle of two models that share their configuration.
fn small_bundle(key: Option<&SecretKey>) -> Vec<u8> {
    let layer = |kind, bytes: &[u8]| Layer::new(kind, Digest::of(bytes), bytes.len() as u64);
    let model = |name: &str, weights: &[u8]| BundledModel {
        name: name.parse().expect("a name"),
        manifest: Manifest::new(layer(MediaType::Config, b"{}"), vec![layer(MediaType::Model, weights)]),
        licences: vec!["MIT".into()],
    };
    let long = [b'w'; 1500];
    let mut models = vec![model("a:1", b"weights"), model("hf.co/b/c:Q8_0", &long)];
    let blob =
        |bytes: &[u8]| BlobSource::new(Digest::of(bytes), bytes.len() as u64, Source::Bytes(bytes.to_vec()));
    let mut blobs = vec![blob(b"{}"), blob(b"weights"), blob(&long)];
    let imprint = Imprint { creator: "ingle".into(), created: "2026-03-14T15:09:26Z".into() };
    let plan =
        Plan::with_chunks(&mut models, &mut blobs, &imprint, 1024, &mut |_, _| {}).expect("it is sound");
    let mut out = Vec::new();
    plan.write(&mut out, key, &mut |_, _| {}).expect("memory takes all");
    out
}

const BODIES: &[(&str, &str)] = &[
    ("small", r#"{"messages":[{"role":"user","content":"hi"}]}"#),
    (
        "chat",
        r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":[{"type":"text","text":"é"}]},{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function","function":{"name":"f","arguments":"{\"a\":[1]}"}}]},{"role":"tool","tool_call_id":"c","content":"r"}],"temperature":0.5,"top_p":0.9,"n":2,"stop":["a","b"],"seed":7,"logprobs":true,"top_logprobs":3,"stream":true,"stream_options":{"include_usage":true},"logit_bias":{"5":-100,"6":1.5},"chat_template_kwargs":{"enable_thinking":false}}"#,
    ),
    (
        "completion",
        r#"{"prompt":["a","b"],"max_tokens":5,"echo":true,"logprobs":1,"top_k":-1,"min_p":1e-3,"samplers":["top_k","temperature"],"dry_sequence_breakers":["\n"],"mirostat":2}"#,
    ),
    ("tokens", r#"{"prompt":[[1,2],[3]],"stop_token_ids":[1.0,2],"best_of":1,"ignore_eos":true,"user":"u"}"#),
    (
        "ollama-chat",
        r#"{"model":"m:latest","messages":[{"role":"user","content":"é","images":[]},{"role":"assistant","content":"","thinking":"t","tool_calls":[{"function":{"index":0,"name":"f","arguments":{"a":[1]}}}]},{"role":"tool","tool_name":"f","content":"r"}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}],"format":"json","think":"low","keep_alive":"-1h5.5s","options":{"num_predict":-1,"num_ctx":8,"stop":["a"],"num_gpu":1,"use_mmap":true}}"#,
    ),
    (
        "ollama-generate",
        r#"{"prompt":"a","system":"s","raw":false,"suffix":"","context":[],"format":{"type":"object"},"stream":false,"keep_alive":0,"options":{"seed":-1,"tfs_z":1}}"#,
    ),
    ("odd", r#"{"a":{"b":[[],{},-0.0,1e400,"\u0000\ud83d\ude00",18446744073709551615]}}"#),
];

/// Names, which notation, and formats.
const FORMATS: &[(&str, u8, &str)] = &[
    (
        "object",
        0,
        r#"{"type":"object","properties":{"hello":{"type":"string","maxLength":3,"pattern":"^[a-z]*$"},"n":{"type":"integer","minimum":-1,"exclusiveMaximum":12},"t":{"enum":["an",1,null,[{}]]}},"required":["hello","n"],"additionalProperties":false}"#,
    ),
    (
        "references",
        0,
        r##"{"$ref":"#/$defs/tree","$defs":{"tree":{"type":"object","properties":{"l":{"$ref":"#/$defs/tree"},"v":{"anyOf":[{"type":"number","multipleOf":0.5},{"type":"string","format":"date"}]}},"required":["v"]}}}"##,
    ),
    (
        "intersections",
        0,
        r#"{"allOf":[{"type":"object","properties":{"a":{"type":["integer","null"]}}},{"patternProperties":{"^x":{"minimum":2}},"minProperties":1}],"oneOf":[{"properties":{"k":{"const":"a"}},"required":["k"]},{"properties":{"k":{"const":"b"}},"required":["k"]}]}"#,
    ),
    (
        "list",
        0,
        r#"{"$schema":"http://json-schema.org/draft-07/schema#","type":"array","items":[{"type":"boolean"},{"const":"é\n"}],"additionalItems":{"type":"array","minItems":1,"maxItems":2,"uniqueItems":false},"title":"t"}"#,
    ),
    ("expression", 1, r"(hello|ab{2,3})+[^a-z\n]?\d{1,3}(?:é|中)\w*$"),
    (
        "rules",
        2,
        "root ::= \"hello\" ws item{1,3} # c\nitem ::= [^\\x00-\\x20]+ | \"(\" root \")\"\nws ::= ( \" \" | \"\\n\" )*\n",
    ),
    (
        "lark",
        3,
        "%llguidance {\"ignore_once\": true}\nstart: \"hello\" (word | %json {\"type\": \"null\"})+ \"b\"?\nword[lazy]: /[a-c]+/\nN: \"1\"..\"3\" & /1|2/\n%ignore / /\n",
    ),
];

const TEMPLATES: &[(&str, &str)] = &[
    (
        "expressions",
        "{{ (1 + 2 * 3 // 2 - 7 % 4 ** 2) ~ 'a' if messages is defined and not false else none }}{{ [1,2][::-1]|tojson }}{{ {'a': 1}.items()|list }}{{ -1.5|abs|round(1) }}",
    ),
    (
        "blocks",
        "{%- for m in messages if m.role != 'x' -%}{{ loop.index0 }}{% if loop.last %}a{% elif loop.first %}b{% else %}c{% endif %}{% endfor %}{% set ns = namespace(n=0) %}{% set ns.n = ns.n + 1 %}{% macro f(a, b=2) %}{{ caller() if caller else a ~ b }}{% endmacro %}{{ f(1) }}{% call f(1) %}x{% endcall %}{% filter upper %}y{% endfilter %}{# c #}{% raw %}{{{% endraw %}",
    ),
    (
        "strings",
        "{{ 'a\\n\\u00e9\\x41'.upper().split('x')|join(',') }}{{ '%05.2f|%s' % (1.5, 'é') }}{{ '{:>8}{0!r}'.format('a') if 0 else messages[0].content[1:-1] }}{{ messages|map(attribute='role')|unique|sort|list }}",
    ),
    (
        "filters",
        "{{ messages|selectattr('role', 'equalto', 'user')|list|length }}{{ 'a b'|title|replace('A', 'b')|indent(2)|wordcount }}{{ [3,1,2]|sort(reverse=true)|batch(2, 0)|list }}{{ strftime_now('%Y-%m-%d') }}{{ tools|tojson(indent=2) }}{{ raise_exception('no') }}",
    ),
];

fn every_value_type() -> GgufWriter {
    let mut file = GgufWriter::new();
    let values = [
        ("general.architecture", Value::from("llama")),
        ("general.alignment", Value::U32(32)),
        ("u8", Value::U8(1)),
        ("i8", Value::I8(-1)),
        ("u16", Value::U16(2)),
        ("i16", Value::I16(-2)),
        ("i32", Value::I32(-3)),
        ("f32", Value::F32(0.5)),
        ("bool", Value::Bool(true)),
        ("u64", Value::U64(1 << 40)),
        ("i64", Value::I64(-1)),
        ("f64", Value::F64(0.25)),
        ("u8s", Value::Array(Array::U8(vec![1, 2]))),
        ("bools", Value::Array(Array::Bool(vec![true, false]))),
        ("f32s", Value::Array(Array::F32(vec![1.0]))),
        ("i16s", Value::Array(Array::I16(vec![-1]))),
        ("u64s", Value::Array(Array::U64(vec![7]))),
        ("strings", Value::Array(Array::String(["a", "", "é"].iter().collect()))),
    ];
    for (key, value) in values {
        file.set(key, value);
    }
    file
}

fn tensors() -> GgufWriter {
    let mut file = GgufWriter::new();
    file.set("split.count", Value::U16(1));
    file.tensor_f32("a", &[3, 2], &[1.0; 6]);
    file.tensor("b", TensorType::Q8_0, &[32], vec![3; 34]);
    file.tensor("c", TensorType::F16, &[1, 1, 2, 1], vec![4; 4]);
    file
}
