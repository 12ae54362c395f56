//! Speed of encoding on one thread: `tokenize_bench FILE.gguf TEXT [SECONDS]` prints MB/s, best and median pass.

use std::path::Path;
use std::time::{Duration, Instant};

use ingle_gguf::GgufFile;
use ingle_tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [path, text, ..] = args.as_slice() else {
        return Err("usage: tokenize_bench FILE.gguf TEXT [SECONDS]".into());
    };
    let seconds: f64 = args.get(2).map_or(Ok(5.0), |s| s.parse())?;
    let file = GgufFile::open(Path::new(path))?;
    let started = Instant::now();
    let tokenizer = Tokenizer::from_metadata(file.metadata())?;
    println!("load: {:.0} ms", started.elapsed().as_secs_f64() * 1e3);
    let text = std::fs::read_to_string(text)?;
    let mut passes = Vec::new();
    let deadline = Instant::now() + Duration::from_secs_f64(seconds);
    while passes.is_empty() || Instant::now() < deadline {
        let started = Instant::now();
        let n_tokens = std::hint::black_box(tokenizer.encode_content(std::hint::black_box(&text))).len();
        passes.push((started.elapsed().as_secs_f64(), n_tokens));
    }
    println!("first pass: {:.1} MB/s", text.len() as f64 / 1e6 / passes[0].0);
    passes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let rate = |pass: (f64, usize)| text.len() as f64 / 1e6 / pass.0;
    println!(
        "{} bytes, {} tokens: best {:.1} MB/s, median {:.1} MB/s",
        text.len(),
        passes[0].1,
        rate(passes[0]),
        rate(passes[passes.len() / 2])
    );
    Ok(())
}
