//! Checkpoints to GGUF files: a folder as Hugging Face lays it out (`config.json`, weights in safetensors, a tokenizer)
//! becomes one file with the names that llama.cpp gives everything.
//!
//! | module | what it owns |
//! |---|---|
//! | `checkpoint` | the folder: bounded reading of its JSON files, and its tensors by name |
//! | `bert` | what architecture `bert` makes of them; other architectures are refused by name |
//! | `wordpiece` | the vocabulary |
//! | `encode` | floats to the types of weights |
//!
//! A folder is untrusted. Whatever does not fit together is a [`ConvertError`] that names it, and nothing of a model is
//! left out in silence: a tensor or a module of the folder that has no place in the file is an error, too.

#![forbid(unsafe_code)]

mod bert;
mod checkpoint;
mod encode;
mod error;
mod wordpiece;

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use ingle_gguf::GgufWriter;

use checkpoint::Checkpoint;
pub use encode::WeightType;
pub use error::ConvertError;

/// What came out of a folder.
#[derive(Debug)]
pub struct Converted {
    /// The file.
    pub file: GgufWriter,
    /// What was decided where the folder left a choice, in words for the user.
    pub notes: Vec<String>,
}

/// Reads a folder and makes a file of it, with its matrices in the given type.
///
/// # Errors
/// If something is missing, damaged, or not known here; see [`ConvertError`].
pub fn convert(folder: &Path, weight_type: WeightType) -> Result<Converted, ConvertError> {
    let checkpoint = Checkpoint::of(folder);
    // Nothing else says which files there should be; and a model that cannot be converted may be a large one.
    checkpoint.check_weights()?;
    let config = checkpoint.json("config.json")?;
    let class = config.opt_strings("architectures")?.into_iter().next();
    let model_type = config.opt_str("model_type")?;
    match (class.as_deref(), model_type.as_deref()) {
        (Some(class), Some("bert") | None) if bert::CLASSES.contains(&class) => {
            bert::convert(&checkpoint.with_weights()?, &config, class, weight_type)
        }
        (None, Some("bert")) => bert::convert(&checkpoint.with_weights()?, &config, "BertModel", weight_type),
        (class, model_type) => Err(ConvertError::UnsupportedArchitecture {
            name: class.or(model_type).unwrap_or("(none)").to_owned(),
            supported: bert::CLASSES.join(", "),
        }),
    }
}

impl Converted {
    /// Writes the file, under its name only once it is complete.
    ///
    /// # Errors
    /// If there is a file of that name already, or the system refuses.
    pub fn write(&self, path: &Path) -> Result<(), ConvertError> {
        if path.exists() {
            return Err(ConvertError::Exists(path.to_owned()));
        }
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".partial");
        let partial = path.with_file_name(name);
        let written = File::create(&partial).and_then(|file| {
            let mut out = BufWriter::new(file);
            self.file.write(&mut out)?;
            out.flush()?;
            out.get_ref().sync_all()?;
            std::fs::rename(&partial, path)
        });
        written.map_err(|source| {
            // What is half written is of no use; that it cannot be removed changes nothing about the error.
            let _ = std::fs::remove_file(&partial);
            ConvertError::Io { path: path.to_owned(), source }
        })
    }
}
