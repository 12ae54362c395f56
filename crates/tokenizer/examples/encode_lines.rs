//! Prints the ids of each JSON string on standard input, one a line: `encode_lines FILE.gguf [PRE] < texts.jsonl`.

use std::io::BufRead;
use std::path::Path;

use ingle_gguf::{GgufFile, Value};
use ingle_tokenizer::Tokenizer;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut args = std::env::args().skip(1);
    let path = args.next().ok_or("usage: encode_lines FILE.gguf [PRE] < texts.jsonl")?;
    let mut metadata = GgufFile::open(Path::new(&path))?.metadata().clone();
    if let Some(pre) = args.next() {
        metadata.set("tokenizer.ggml.pre", Value::from(pre.as_str()));
    }
    let tokenizer = Tokenizer::from_metadata(&metadata)?;
    for line in std::io::stdin().lock().lines() {
        let text: String = serde_json::from_str(&line?)?;
        let ids: Vec<u32> = tokenizer.encode_content(&text).iter().map(|id| id.0).collect();
        println!("{}", serde_json::to_string(&ids)?);
    }
    Ok(())
}
