//! Published schemas with valid and invalid instances: what compiles never accepts an invalid one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ingle_chat::Format;
use ingle_grammar::{Compiler, Grammar, Limits};
use ingle_tokenizer::Tokenizer;
use serde_json::Value;

use crate::common::{large, shared, small, takes};

#[derive(Default, Debug)]
struct Counts {
    schemas: usize,
    refused: usize,
    valid: usize,
    /// Valid, but not taken: other order of properties, numbers written otherwise.
    not_taken: usize,
    invalid: usize,
    wrongly_taken: Vec<String>,
}

impl Counts {
    fn add(&mut self, name: &str, compiler: &Compiler, tokenizer: &Tokenizer, case: &Value) {
        self.schemas += 1;
        let grammar = match compiler.compile(&Format::JsonSchema(case["schema"].clone())) {
            Ok(grammar) => grammar,
            Err(error) => {
                assert!(error.is_refusal(), "{name}: {error:?}");
                self.refused += 1;
                if std::env::var_os("SHOW").is_some() {
                    println!("refused: {name}: {error}");
                }
                return;
            }
        };
        for test in case["tests"].as_array().expect("a list") {
            if test["valid"] == Value::Bool(true) {
                self.valid += 1;
                let taken =
                    writings(&test["data"]).iter().any(|text| takes_instance(&grammar, tokenizer, text));
                self.not_taken += usize::from(!taken);
                if !taken && std::env::var_os("SHOW").is_some() {
                    println!("not taken: {name}: {} {}", case["schema"], test["data"]);
                }
            } else {
                self.invalid += 1;
                for text in writings(&test["data"]) {
                    if takes_instance(&grammar, tokenizer, &text) {
                        self.wrongly_taken.push(format!("{name}: {}: {text}", case["schema"]));
                    }
                }
            }
        }
    }
}

fn takes_instance(grammar: &Arc<Grammar>, tokenizer: &Tokenizer, text: &str) -> bool {
    takes(grammar, tokenizer, &tokenizer.encode_content(text))
}

fn writings(instance: &Value) -> Vec<String> {
    let pretty = serde_json::to_string_pretty(instance).expect("JSON");
    vec![instance.to_string(), pretty]
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
            } else if entry.path().extension().is_some_and(|extension| extension == "json") {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}

fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).expect("readable")).expect("JSON")
}

#[test]
fn json_schema_test_suite() {
    for draft in ["draft2020-12", "draft7"] {
        let Some(folder) = shared(&format!("schemas/json-schema-test-suite/{draft}")) else { return };
        let compiler = Compiler::new(&small(), Limits::default());
        let mut counts = Counts::default();
        for path in files(&folder) {
            // In draft 7, what a text holds could be demanded; since then it is an annotation.
            if draft == "draft7" && path.ends_with("content.json") {
                continue;
            }
            for case in read(&path).as_array().expect("a list") {
                counts.add(&path.file_name().expect("a name").to_string_lossy(), &compiler, &small(), case);
            }
        }
        println!("{draft}: {counts:?}");
        assert!(counts.wrongly_taken.is_empty(), "{:#?}", counts.wrongly_taken);
        assert!(counts.refused * 2 < counts.schemas, "{counts:?}");
    }
}

#[test]
fn maskbench() {
    let Some(folder) = shared("schemas/maskbench") else { return };
    let tokenizer = large().expect("beside it");
    let compiler = Compiler::new(&tokenizer, Limits::default());
    let mut counts = Counts::default();
    for path in files(&folder) {
        counts.add(&path.file_name().expect("a name").to_string_lossy(), &compiler, &tokenizer, &read(&path));
    }
    println!("maskbench: {counts:?}");
    assert!(counts.wrongly_taken.is_empty(), "{:#?}", counts.wrongly_taken);
    assert!(counts.refused * 4 < counts.schemas, "{counts:?}");
}
