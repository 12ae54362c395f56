//! Which files of a repository are meant.
//!
//! As llama.cpp and Ollama choose: the named quantization; without a name Q4_K_M, else the first file. All parts of a
//! split model belong together (`NAME-00001-of-00003.gguf`). A projector (`mmproj`) comes along.

use std::collections::BTreeMap;

use super::PullError;
use crate::{Digest, HubPick};

/// What is taken if nothing is named.
const DEFAULT_QUANT: &str = "Q4_K_M";

/// A file of a repository.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RepoFile {
    pub path: String,
    pub size: Option<u64>,
    /// Known of large files only.
    pub digest: Option<Digest>,
}

/// The files that are meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Picked<'a> {
    /// The parts of the model in order.
    pub model: Vec<&'a RepoFile>,
    pub projector: Option<&'a RepoFile>,
}

/// A model of a repository: one file, or the parts of a split one by number.
struct Group<'a> {
    /// The path without part and extension.
    stem: &'a str,
    n_parts: usize,
    parts: BTreeMap<usize, &'a RepoFile>,
}

/// The models of a repository: what each is called, its bytes where all are known, and its files in order. Those with
/// parts missing are not among them.
pub(crate) fn choices(files: &[RepoFile]) -> Vec<(String, Option<u64>, Vec<&RepoFile>)> {
    let groups = groups(files).into_iter();
    let whole = groups.filter(|group| group.parts.keys().copied().eq(1..=group.n_parts));
    whole
        .map(|group| {
            let parts: Vec<&RepoFile> = group.parts.into_values().collect();
            let n_bytes = parts.iter().try_fold(0_u64, |n, part| n.checked_add(part.size?));
            (label(group.stem), n_bytes, parts)
        })
        .collect()
}

pub(crate) fn pick<'a>(repo: &str, files: &'a [RepoFile], pick: &HubPick) -> Result<Picked<'a>, PullError> {
    let groups = groups(files);
    if groups.is_empty() {
        return Err(PullError::NoGguf(repo.to_owned()));
    }
    let chosen = match pick {
        HubPick::File(path) => {
            let found = groups.iter().find(|group| group.parts.values().any(|file| file.path == *path));
            // A projector or the like may be asked for by its own name.
            if found.is_none()
                && let Some(file) = files.iter().find(|file| file.path == *path)
            {
                return Ok(Picked { model: vec![file], projector: None });
            }
            found
        }
        HubPick::Quant(quant) => best(&groups, quant),
        HubPick::Default => best(&groups, DEFAULT_QUANT).or(groups.first()),
    };
    let Some(group) = chosen else {
        let asked = match pick {
            HubPick::File(file) => format!("file {file}"),
            HubPick::Quant(quant) => format!("quantization {quant}"),
            HubPick::Default => "model".to_owned(),
        };
        let mut available: Vec<String> = groups.iter().map(|group| label(group.stem)).collect();
        available.sort();
        available.dedup();
        return Err(PullError::NoQuant { repo: repo.to_owned(), asked, available });
    };
    if group.parts.len() != group.n_parts || !group.parts.keys().copied().eq(1..=group.n_parts) {
        let (found, expected) = (group.parts.len(), group.n_parts);
        let stem = group.stem.to_owned();
        return Err(PullError::MissingParts { repo: repo.to_owned(), stem, found, expected });
    }
    Ok(Picked { model: group.parts.values().copied().collect(), projector: projector(files) })
}

fn is_gguf(path: &str) -> bool {
    path.len() > 5
        && path.is_char_boundary(path.len() - 5)
        && path[path.len() - 5..].eq_ignore_ascii_case(".gguf")
}

fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn is_projector(path: &str) -> bool {
    is_gguf(path) && file_name(path).to_ascii_lowercase().contains("mmproj")
}

/// The models, in the order of their names.
fn groups(files: &[RepoFile]) -> Vec<Group<'_>> {
    let mut groups: BTreeMap<(&str, usize), Group<'_>> = BTreeMap::new();
    for file in files {
        // Importance matrices carry the extension too, and are no models.
        let name = file_name(&file.path).to_ascii_lowercase();
        if !is_gguf(&file.path) || is_projector(&file.path) || name.contains("imatrix") {
            continue;
        }
        let stem = &file.path[..file.path.len() - ".gguf".len()];
        let (stem, part, n_parts) = part_of(stem).unwrap_or((stem, 1, 1));
        let group =
            groups.entry((stem, n_parts)).or_insert_with(|| Group { stem, n_parts, parts: BTreeMap::new() });
        group.parts.insert(part, file);
    }
    groups.into_values().collect()
}

/// `NAME-00002-of-00003`: the name, 2 and 3.
fn part_of(stem: &str) -> Option<(&str, usize, usize)> {
    let (rest, total) = stem.rsplit_once("-of-")?;
    let (name, part) = rest.rsplit_once('-')?;
    let number = |text: &str| {
        (text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse::<usize>().ok())?
    };
    let (part, total) = (number(part)?, number(total)?);
    (part >= 1 && part <= total).then_some((name, part, total))
}

/// The group of a quantization. Of several the plainest: not in a folder, the shortest name, the first.
fn best<'a, 'b>(groups: &'b [Group<'a>], quant: &str) -> Option<&'b Group<'a>> {
    let fitting = groups.iter().filter(|group| has_quant(group.stem, quant));
    fitting.min_by_key(|group| (group.stem.matches('/').count(), group.stem.len(), group.stem))
}

/// Whether a name says this quantization: as a word of its own, so that Q4_K is not found in Q4_K_M or in IQ4_K. All of
/// them have a digit; other words of a name are none.
fn has_quant(stem: &str, quant: &str) -> bool {
    if !quant.bytes().any(|b| b.is_ascii_digit()) {
        return false;
    }
    let (stem, quant) = (stem.to_ascii_uppercase(), quant.to_ascii_uppercase());
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ends = |at: usize| {
        let before = at.checked_sub(1).map(|i| stem.as_bytes()[i]);
        let after = stem.as_bytes().get(at + quant.len()).copied();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    };
    !quant.is_empty() && stem.match_indices(&quant).any(|(at, _)| ends(at))
}

/// What a name says of its quantization: the last word that looks like one, else the whole name.
fn label(stem: &str) -> String {
    let name = file_name(stem);
    let looks_like_one = |word: &&str| {
        let word = word.to_ascii_uppercase();
        let starts = ["Q", "IQ", "TQ", "F", "BF", "MXFP"];
        starts.iter().any(|start| {
            word.strip_prefix(start).is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
        })
    };
    let word = name.rsplit(['-', '.']).find(looks_like_one);
    match word {
        Some(word) if name.to_ascii_uppercase().contains(&format!("UD-{}", word.to_ascii_uppercase())) => {
            format!("UD-{word}")
        }
        Some(word) => word.to_owned(),
        None => name.to_owned(),
    }
}

/// The projector with 16-bit floats, which every device can use; else the first.
fn projector(files: &[RepoFile]) -> Option<&RepoFile> {
    let mut all: Vec<&RepoFile> = files.iter().filter(|file| is_projector(&file.path)).collect();
    all.sort_by_key(|file| {
        (!has_quant(&file.path[..file.path.len() - 5], "F16"), file.path.matches('/').count(), &file.path)
    });
    all.first().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(paths: &[&str]) -> Vec<RepoFile> {
        paths.iter().map(|path| RepoFile { path: (*path).into(), size: None, digest: None }).collect()
    }

    fn check(paths: &[&str], asked: HubPick, expected: Result<&[&str], &str>) {
        let files = files(paths);
        match (pick("u/r", &files, &asked), expected) {
            (Ok(picked), Ok(expected)) => {
                let mut found: Vec<&str> = picked.model.iter().map(|file| file.path.as_str()).collect();
                found.extend(picked.projector.map(|file| file.path.as_str()));
                assert_eq!(found, expected, "{asked:?}");
            }
            (Err(error), Err(part)) => assert!(error.to_string().contains(part), "{asked:?}: {error}"),
            (found, _) => panic!("{asked:?}: {found:?}"),
        }
    }

    fn quant(text: &str) -> HubPick {
        HubPick::Quant(text.into())
    }

    const REPO: &[&str] = &[
        ".gitattributes",
        "README.md",
        "m-BF16/m-BF16-00001-of-00002.gguf",
        "m-BF16/m-BF16-00002-of-00002.gguf",
        "m-IQ4_XS.gguf",
        "m-Q2_K.gguf",
        "m-Q3_K_M.gguf",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "m-Q8_0.gguf",
        "m-UD-Q4_K_XL.gguf",
        "m-imatrix.gguf",
        "m.f16.gguf",
        "mmproj-BF16.gguf",
        "mmproj-F16.gguf",
    ];

    #[test]
    fn quantizations() {
        check(REPO, HubPick::Default, Ok(&["m-Q4_K_M.gguf", "mmproj-F16.gguf"]));
        check(REPO, quant("Q8_0"), Ok(&["m-Q8_0.gguf", "mmproj-F16.gguf"]));
        check(REPO, quant("q8_0"), Ok(&["m-Q8_0.gguf", "mmproj-F16.gguf"]));
        check(REPO, quant("F16"), Ok(&["m.f16.gguf", "mmproj-F16.gguf"]));
        check(REPO, quant("UD-Q4_K_XL"), Ok(&["m-UD-Q4_K_XL.gguf", "mmproj-F16.gguf"]));
        check(REPO, quant("IQ4_XS"), Ok(&["m-IQ4_XS.gguf", "mmproj-F16.gguf"]));
        let parts =
            ["m-BF16/m-BF16-00001-of-00002.gguf", "m-BF16/m-BF16-00002-of-00002.gguf", "mmproj-F16.gguf"];
        check(REPO, quant("BF16"), Ok(&parts));
        check(REPO, HubPick::File("m-BF16/m-BF16-00002-of-00002.gguf".into()), Ok(&parts));
        check(REPO, HubPick::File("m-Q2_K.gguf".into()), Ok(&["m-Q2_K.gguf", "mmproj-F16.gguf"]));
        check(REPO, HubPick::File("mmproj-BF16.gguf".into()), Ok(&["mmproj-BF16.gguf"]));
        // Words are whole: Q4_K is not Q4_K_M, Q4_XS not IQ4_XS.
        for absent in ["Q4_K", "Q4_XS", "Q4", "Q5_K_M", "M", ""] {
            check(REPO, quant(absent), Err("Q4_K_M, Q4_K_S, Q8_0, UD-Q4_K_XL"));
        }
        check(REPO, HubPick::File("absent.gguf".into()), Err("file absent.gguf"));
    }

    #[test]
    fn all_models_are_named() {
        let mut files = files(REPO);
        files.iter_mut().for_each(|file| file.size = Some(10));
        let found = choices(&files);
        let names: Vec<(&str, Option<u64>, usize)> =
            found.iter().map(|(name, bytes, parts)| (name.as_str(), *bytes, parts.len())).collect();
        assert_eq!(names[0], ("BF16", Some(20), 2));
        assert_eq!(names.len(), 9, "{names:?}");
        assert!(names.contains(&("UD-Q4_K_XL", Some(10), 1)) && names.contains(&("f16", Some(10), 1)));
        files[2].size = None;
        assert_eq!(choices(&files)[0].1, None);
        files.remove(2);
        assert!(choices(&files).iter().all(|(name, ..)| name != "BF16"), "a part is missing");
    }

    #[test]
    fn repositories_with_less() {
        check(&["b.Q5_0.gguf", "a.Q8_0.gguf"], HubPick::Default, Ok(&["a.Q8_0.gguf"]));
        check(&["README.md", "model.safetensors"], HubPick::Default, Err("no GGUF file"));
        check(&["mmproj.gguf"], HubPick::Default, Err("no GGUF file"));
        check(&[], quant("Q4_0"), Err("no GGUF file"));
        check(
            &["x-Q4_0-00001-of-00003.gguf", "x-Q4_0-00003-of-00003.gguf"],
            quant("Q4_0"),
            Err("2 of 3 parts"),
        );
        check(&["x-Q4_0-00001-of-00001.gguf"], quant("Q4_0"), Ok(&["x-Q4_0-00001-of-00001.gguf"]));
        // Not parts: other widths, part 0, a part beyond the end.
        check(&["x-Q4_0-1-of-2.gguf"], HubPick::Default, Ok(&["x-Q4_0-1-of-2.gguf"]));
        check(&["x-00000-of-00002.gguf"], HubPick::Default, Ok(&["x-00000-of-00002.gguf"]));
        check(&["x-00003-of-00002.gguf"], HubPick::Default, Ok(&["x-00003-of-00002.gguf"]));
        // The plainest of several.
        check(&["old/x-Q4_0.gguf", "x-longer-Q4_0.gguf", "x-Q4_0.gguf"], quant("Q4_0"), Ok(&["x-Q4_0.gguf"]));
        check(&["Q4_0/x.gguf", "Q8_0/x.gguf"], quant("Q8_0"), Ok(&["Q8_0/x.gguf"]));
        check(&["ü.gguf", "é-Q4_0.GGUF"], quant("Q4_0"), Ok(&["é-Q4_0.GGUF"]));
    }
}
