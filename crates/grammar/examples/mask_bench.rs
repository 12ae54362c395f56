//! How long masks take: `mask_bench VOCABULARY.gguf FOLDER [SECONDS]` compiles every schema of the folder's JSON files
//! (`{"schema": ..., "tests": [{"valid": ..., "data": ...}]}`, or a schema alone), walks their valid instances token
//! by token, and prints the median, the 99th percentile and the maximum of both times.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ingle_chat::Format;
use ingle_gguf::GgufFile;
use ingle_grammar::{Compiler, Limits, TokenMask};
use ingle_tokenizer::Tokenizer;
use serde_json::Value;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [vocabulary, folder, ..] = args.as_slice() else {
        return Err("usage: mask_bench VOCABULARY.gguf FOLDER [SECONDS]".into());
    };
    let seconds: f64 = args.get(2).map_or(Ok(30.0), |s| s.parse())?;
    let file = GgufFile::open(Path::new(vocabulary))?;
    let tokenizer = Arc::new(Tokenizer::from_metadata(file.metadata())?);
    let compiler = Compiler::new(&tokenizer, Limits::default());
    let started = Instant::now();
    compiler.compile(&Format::JsonObject)?;
    println!("{} tokens; first compile, with the trie: {:.0} ms", tokenizer.n_vocab(), ms(started.elapsed()));

    let mut paths: Vec<_> =
        std::fs::read_dir(folder)?.map(|entry| entry.map(|entry| entry.path())).collect::<Result<_, _>>()?;
    paths.sort();
    let (mut compiles, mut matchers, mut masks, mut accepts) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut n_refused, mut n_stopped) = (0, 0);
    let mut mask = TokenMask::new(tokenizer.n_vocab());
    let mut logits = vec![0.0f32; tokenizer.n_vocab()];
    let deadline = started + Duration::from_secs_f64(seconds);
    for path in paths {
        if Instant::now() > deadline {
            println!("stopped after {seconds} s");
            break;
        }
        let Ok(document) = serde_json::from_slice::<Value>(&std::fs::read(&path)?) else { continue };
        let schema = document.get("schema").unwrap_or(&document).clone();
        let started = Instant::now();
        let compiled = compiler.compile(&Format::JsonSchema(schema));
        compiles.push(started.elapsed());
        let Ok(grammar) = compiled else {
            n_refused += 1;
            continue;
        };
        for test in document.get("tests").and_then(Value::as_array).into_iter().flatten() {
            if test["valid"] != Value::Bool(true) {
                continue;
            }
            let started = Instant::now();
            let mut matcher = grammar.matcher();
            matchers.push(started.elapsed());
            for token in tokenizer.encode_content(&test["data"].to_string()) {
                let started = Instant::now();
                let masked = matcher.mask(&mut mask);
                masks.push(started.elapsed());
                if masked.is_err() {
                    n_stopped += 1;
                    break;
                }
                let started = Instant::now();
                if matcher.accept(token).is_err() {
                    n_stopped += 1;
                    break;
                }
                accepts.push(started.elapsed());
            }
        }
    }
    let started = Instant::now();
    mask.apply(&mut logits);
    println!("apply: {:.1} us", ms(started.elapsed()) * 1e3);
    println!(
        "{} schemas, {n_refused} refused; {n_stopped} instances not walked to their end",
        compiles.len()
    );
    for (name, times) in [
        ("compile", &mut compiles),
        ("matcher", &mut matchers),
        ("mask", &mut masks),
        ("accept", &mut accepts),
    ] {
        report(name, times);
    }
    Ok(())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn report(name: &str, times: &mut [Duration]) {
    times.sort();
    let Some(last) = times.len().checked_sub(1) else { return };
    let at = |share: f64| ms(times[(last as f64 * share) as usize]) * 1e3;
    println!(
        "{name:>8}: n {:>7}  p50 {:>8.1} us  p90 {:>8.1} us  p99 {:>9.1} us  p99.9 {:>9.1} us  max {:>9.1} us",
        times.len(),
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0)
    );
}
