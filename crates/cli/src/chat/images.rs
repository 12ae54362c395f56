//! Paths of images in a prompt: Ollama reads them, and no model here has eyes.

use std::path::Path;

use anyhow::{Result, bail};

const ENDINGS: [&str; 8] = [".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tiff", ".heic"];
/// Most words of a prompt that are looked at: nobody names images far inside of a long text.
const WORDS_MAX: usize = 2000;

/// Refuses a prompt that names an image that is there: an answer to it would be made up.
///
/// # Errors
/// If there is one.
pub fn refuse(prompt: &str, model: &str) -> Result<()> {
    let quotes = ['"', '\'', '`', ',', ';', '(', ')', '<', '>'];
    for word in prompt.split_whitespace().take(WORDS_MAX) {
        let path = word.trim_matches(quotes).trim_end_matches(['.', '?', '!', ':']);
        let lower = path.to_ascii_lowercase();
        let is_image = ENDINGS.iter().any(|ending| lower.ends_with(ending));
        if is_image && Path::new(path).is_file() {
            bail!(
                "`{path}` is an image, and {model} has no eyes: models here read text only; describe it in words, or leave \
                 the path out"
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_are_there_are_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("cat.PNG");
        std::fs::write(&file, "x").expect("written");
        let path = file.display();
        for prompt in
            [format!("What is in {path}?"), format!("\"{path}\""), format!("compare ({path}) and more")]
        {
            let error = refuse(&prompt, "tiny").expect_err(&prompt).to_string();
            assert!(error.contains("cat.PNG") && error.contains("tiny has no eyes"), "{error}");
        }
        for prompt in ["What is a .png?", "describe /nowhere/cat.png", "see https://a.b/c.jpg"] {
            refuse(prompt, "tiny").expect(prompt);
        }
    }
}
