//! What names of GGUF files tell: quantization, and the parts of split models.

/// A part of a split model: `NAME-00002-of-00003.gguf`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The name without the part's numbers and ending.
    pub stem: String,
    /// Which part, from 1.
    pub number: u32,
    /// How many there are.
    pub count: u32,
}

/// The most parts of a split model: as many as five digits count.
const PARTS_MAX: u32 = 99_999;

/// Whether this is a GGUF file by its name.
pub fn is_gguf(file: &str) -> bool {
    stem(file) != file
}

/// Whether this is the part of a model that sees or hears, which is no model by itself.
pub fn is_projector(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    name.contains("mmproj")
}

/// The name without `.gguf`.
pub fn stem(file: &str) -> &str {
    let end = file.len().saturating_sub(".gguf".len());
    match file.get(end..) {
        Some(extension) if extension.eq_ignore_ascii_case(".gguf") => &file[..end],
        _ => file,
    }
}

/// Which part of a split model a file is, if it is one.
pub fn part(file: &str) -> Option<Part> {
    let (rest, count) = stem(file).rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let numeral =
        |text: &str| text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse::<u32>().ok()).flatten();
    let (number, count) = (numeral(number)?, numeral(count)?);
    (number >= 1 && number <= count && count <= PARTS_MAX).then(|| Part {
        stem: stem.to_owned(),
        number,
        count,
    })
}

/// The quantization that a file's name tells: `Q4_K_M` of `Model-8B.Q4_K_M.gguf`.
pub fn quant(file: &str) -> Option<String> {
    let file = file.rsplit('/').next().unwrap_or(file);
    let whole = part(file).map_or_else(|| stem(file).to_owned(), |part| part.stem);
    let upper = whole.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(['-', '.', ' ']).collect();
    for (i, word) in words.iter().enumerate().rev() {
        let ends = std::iter::once(*word).chain(word.match_indices('_').map(|(at, _)| &word[at + 1..]));
        let Some(quant) = ends.into_iter().find(|end| is_quant(end)) else { continue };
        let is_dynamic = i > 0 && words[i - 1] == "UD";
        return Some(if is_dynamic { format!("UD-{quant}") } else { quant.to_owned() });
    }
    None
}

/// Whether a text in upper case is a quantization's name, as `Q4_K_M`, `IQ2_XS`, `BF16`, `MXFP4`.
pub(crate) fn is_quant(upper: &str) -> bool {
    let upper = upper.strip_prefix("UD-").unwrap_or(upper);
    let digits = |start: &str| {
        let rest = upper.strip_prefix(start)?;
        rest.starts_with(|c: char| c.is_ascii_digit()).then_some(rest)
    };
    if matches!(upper, "F16" | "F32" | "BF16" | "F64") || digits("MXFP").is_some() || digits("NVFP").is_some()
    {
        return true;
    }
    let number = ["IQ", "TQ", "Q"].iter().find_map(|start| digits(start));
    number.is_some_and(|rest| rest[1..].is_empty() || rest[1..].starts_with('_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_tell() {
        let check =
            |file: &str, expected: Option<&str>| assert_eq!(quant(file).as_deref(), expected, "{file}");
        check("Llama-3.2-1B-Instruct-Q4_K_M.gguf", Some("Q4_K_M"));
        check("llama-2-7b.q4_0.gguf", Some("Q4_0"));
        check("sub/Model-UD-IQ2_XXS.gguf", Some("UD-IQ2_XXS"));
        check("Qwen3-8B-Q8_0-00001-of-00003.gguf", Some("Q8_0"));
        check("gpt-oss-20b-mxfp4.gguf", Some("MXFP4"));
        check("model_Q5_K_S.gguf", Some("Q5_K_S"));
        check("qwq-32b-bf16.gguf", Some("BF16"));
        check("Qwen2.5-7B.gguf", None);
        check("ggml-model-f16.gguf", Some("F16"));
        check("QUEEN-7B.gguf", None);
    }

    #[test]
    fn parts() {
        let check = |file: &str, expected: Option<(&str, u32, u32)>| {
            let found = part(file);
            assert_eq!(found.as_ref().map(|p| (p.stem.as_str(), p.number, p.count)), expected, "{file}");
        };
        check("a-00001-of-00003.gguf", Some(("a", 1, 3)));
        check("a-00004-of-00003.gguf", None);
        check("a-00000-of-00003.gguf", None);
        check("a-x-of-00003.gguf", None);
        check("a.gguf", None);
        check("99999999999-of-1.gguf", None);
        check("a-00001-of-99999.gguf", Some(("a", 1, 99_999)));
        check("a-00001-of-100000.gguf", None);
        check("a-00001-of-4294967295.gguf", None);
        assert!(
            is_projector("mmproj-F16.gguf") && is_projector("x/m-mmproj.gguf") && !is_projector("m.gguf")
        );
    }
}
