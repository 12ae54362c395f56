//! The hub's answer about a repository: its commit and its files, read into what is wanted of them and nothing else, so
//! that a large answer takes no more memory than its bytes.

use std::fmt;
use std::marker::PhantomData;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::hub::Repo;
use super::pick::RepoFile;
use crate::Digest;

/// The most files of a repository.
const FILES_MAX: usize = 100_000;

/// Reads an answer.
///
/// # Errors
/// What is wrong with it, in words.
pub(super) fn parse(body: &[u8]) -> Result<Repo, String> {
    let Any(answer) = serde_json::from_slice::<Any<Answer>>(body).map_err(|error| match error.is_data() {
        true => error.to_string(),
        false => "it is no JSON".to_owned(),
    })?;
    let commit = answer.sha.ok_or("`sha` is missing")?;
    let is_commit = (7..=64).contains(&commit.len()) && commit.bytes().all(|b| b.is_ascii_hexdigit());
    if !is_commit {
        return Err("`sha` is no commit".to_owned());
    }
    let files = answer.siblings.ok_or("`siblings` is missing")?;
    Ok(Repo { commit, files, license: answer.card.license })
}

/// What is wanted of a value. What it is given by other values, it is not given at all: the hub adds to its answers.
trait Wanted<'de>: Default {
    fn text(&mut self, _text: &str) {}
    fn number(&mut self, _number: u64) {}
    /// Anything else that is there.
    fn other(&mut self) {}
    /// A field of an object: its value is to be taken.
    fn field<A: MapAccess<'de>>(&mut self, _key: &str, map: &mut A) -> Result<(), A::Error> {
        self.other();
        map.next_value::<IgnoredAny>().map(drop)
    }
    /// A list: all of it is to be taken.
    fn list<A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        self.other();
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }
}

/// What is wanted of any value.
struct Any<T>(T);

impl<'de, T: Wanted<'de>> Deserialize<'de> for Any<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Reading(PhantomData)).map(Self)
    }
}

struct Reading<T>(PhantomData<T>);

impl<'de, T: Wanted<'de>> Visitor<'de> for Reading<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_unit<E>(self) -> Result<T, E> {
        Ok(T::default())
    }

    fn visit_str<E>(self, text: &str) -> Result<T, E> {
        let mut wanted = T::default();
        wanted.text(text);
        Ok(wanted)
    }

    fn visit_u64<E>(self, number: u64) -> Result<T, E> {
        let mut wanted = T::default();
        wanted.number(number);
        Ok(wanted)
    }

    fn visit_i64<E>(self, _: i64) -> Result<T, E> {
        other()
    }

    fn visit_f64<E>(self, _: f64) -> Result<T, E> {
        other()
    }

    fn visit_bool<E>(self, _: bool) -> Result<T, E> {
        other()
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<T, A::Error> {
        let mut wanted = T::default();
        while let Some(key) = map.next_key::<String>()? {
            wanted.field(&key, &mut map)?;
        }
        Ok(wanted)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<T, A::Error> {
        let mut wanted = T::default();
        wanted.list(&mut list)?;
        Ok(wanted)
    }
}

fn other<'de, T: Wanted<'de>, E>() -> Result<T, E> {
    let mut wanted = T::default();
    wanted.other();
    Ok(wanted)
}

/// The value of a field.
fn value<'de, T: Wanted<'de>, A: MapAccess<'de>>(map: &mut A) -> Result<T, A::Error> {
    map.next_value().map(|Any(value)| value)
}

impl Wanted<'_> for Option<String> {
    fn text(&mut self, text: &str) {
        *self = Some(text.to_owned());
    }
}

impl Wanted<'_> for Option<u64> {
    fn number(&mut self, number: u64) {
        *self = Some(number);
    }
}

/// The whole answer.
#[derive(Default)]
struct Answer {
    sha: Option<String>,
    siblings: Option<Vec<RepoFile>>,
    card: Card,
}

impl<'de> Wanted<'de> for Answer {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "sha" => self.sha = value(map)?,
            "siblings" => self.siblings = value(map)?,
            "cardData" => self.card = value(map)?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

#[derive(Default)]
struct Card {
    license: Option<String>,
}

impl<'de> Wanted<'de> for Card {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "license" => self.license = value(map)?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

impl<'de> Wanted<'de> for Option<Vec<RepoFile>> {
    fn list<A: SeqAccess<'de>>(&mut self, list: &mut A) -> Result<(), A::Error> {
        let files = self.insert(Vec::new());
        while let Some(Any(file)) = list.next_element::<Any<File>>()? {
            if files.len() == FILES_MAX {
                return Err(Error::custom(format_args!("it lists more than {FILES_MAX} files")));
            }
            files.push(file.checked().map_err(Error::custom)?);
        }
        Ok(())
    }
}

#[derive(Default)]
struct File {
    name: Option<String>,
    size: Option<u64>,
    large: Large,
}

impl<'de> Wanted<'de> for File {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "rfilename" => self.name = value(map)?,
            "size" => self.size = value(map)?,
            "lfs" => self.large = value(map)?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

/// What is known of large files only.
#[derive(Default)]
struct Large {
    sha256: Sha256,
    size: Option<u64>,
}

impl<'de> Wanted<'de> for Large {
    fn field<A: MapAccess<'de>>(&mut self, key: &str, map: &mut A) -> Result<(), A::Error> {
        match key {
            "sha256" => self.sha256 = value(map)?,
            "size" => self.size = value(map)?,
            _ => drop(map.next_value::<IgnoredAny>()?),
        }
        Ok(())
    }
}

#[derive(Default)]
enum Sha256 {
    #[default]
    None,
    Is(Digest),
    Wrong,
}

impl Wanted<'_> for Sha256 {
    fn text(&mut self, text: &str) {
        *self = format!("sha256:{text}").parse().map_or(Self::Wrong, Self::Is);
    }

    fn number(&mut self, _: u64) {
        *self = Self::Wrong;
    }

    fn other(&mut self) {
        *self = Self::Wrong;
    }
}

impl File {
    fn checked(self) -> Result<RepoFile, &'static str> {
        let path = self.name.ok_or("a file has no name")?;
        // It becomes a part of an address; the hub has no such names.
        let is_other = |c: char| c.is_control() || c == '\\';
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) || path.chars().any(is_other) {
            return Err("a file's name is no path");
        }
        let digest = match self.large.sha256 {
            Sha256::None => None,
            Sha256::Is(digest) => Some(digest),
            Sha256::Wrong => return Err("the SHA-256 of a file is none"),
        };
        let size = self.large.size.or(self.size).filter(|size| *size <= i64::MAX as u64);
        Ok(RepoFile { path, size, digest })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// File names that a hub sends (V56): each is refused, or a path of plain names.
    #[test]
    fn hostile_file_names() {
        for text in ingle_testkit::hostile::texts(1000) {
            for name in [text.clone(), format!("{text}.gguf"), format!("a/{text}/b.gguf")] {
                let json = serde_json::json!({ "sha": "0123456789", "siblings": [{ "rfilename": name }] });
                let Ok(repo) = parse(json.to_string().as_bytes()) else { continue };
                let parts: Vec<&str> = repo.files[0].path.split('/').collect();
                let is_plain = |part: &&str| {
                    !matches!(*part, "" | "." | "..")
                        && !part.contains('\\')
                        && !part.chars().any(char::is_control)
                };
                assert!(parts.iter().all(is_plain), "{name:?}");
            }
            let json = serde_json::json!({ "sha": text, "siblings": [] });
            let is_commit = text.len() >= 7 && text.bytes().all(|b| b.is_ascii_hexdigit());
            assert!(is_commit || parse(json.to_string().as_bytes()).is_err(), "{text:?}");
        }
    }

    #[test]
    fn answers() {
        let good = r#"{"sha":"0123456789abcdef","siblings":[{"rfilename":"a/x.gguf","size":5,
            "lfs":{"sha256":"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":5}},
            {"rfilename":"README.md","size":9}],"cardData":{"license":"mit"}}"#;
        let repo = parse(good.as_bytes()).unwrap();
        assert_eq!((repo.files.len(), repo.license.as_deref()), (2, Some("mit")));
        assert_eq!(
            (repo.files[0].size, repo.files[0].digest.is_some(), repo.files[1].digest),
            (Some(5), true, None)
        );
        for (bad, part) in [
            ("", "no JSON"),
            ("[]", "sha"),
            (r#"{"sha":"../../x","siblings":[]}"#, "no commit"),
            (r#"{"sha":"0123456789"}"#, "siblings"),
            (r#"{"sha":"0123456789","siblings":[{}]}"#, "no name"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"../x.gguf"}]}"#, "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"a//x.gguf"}]}"#, "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"/x.gguf"}]}"#, "no path"),
            ("{\"sha\":\"0123456789\",\"siblings\":[{\"rfilename\":\"a\\u0000\"}]}", "no path"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"x","lfs":{"sha256":"abc"}}]}"#, "SHA-256"),
            (r#"{"sha":"0123456789","siblings":[{"rfilename":"x","lfs":{"sha256":5}}]}"#, "SHA-256"),
        ] {
            let problem = parse(bad.as_bytes()).err().unwrap_or_else(|| panic!("{bad} is taken"));
            assert!(problem.contains(part), "{bad}: {problem}");
        }
    }

    /// What is held in memory is what is listed, and no more of it than may be.
    #[test]
    fn large_answers() {
        let listed = |file: &str, n: usize| {
            let files = vec![file; n].join(",");
            parse(format!(r#"{{"siblings":[{files}],"sha":"0123456789"}}"#).as_bytes())
        };
        let named = r#"{"rfilename":"a"}"#;
        assert_eq!(listed(named, FILES_MAX).unwrap().files.len(), FILES_MAX);
        for (file, n, part) in
            [(named, FILES_MAX + 1, "more than 100000"), (r#"{"":0}"#, 4_000_000, "no name")]
        {
            let problem = listed(file, n).err().unwrap();
            assert!(problem.contains(part), "{problem}");
        }
        // What nobody asks for may be anything.
        let many = vec![r#"{"":0}"#; 1000].join(",");
        let text = format!(
            r#"{{"sha":"0123456789","siblings":[{{"rfilename":"x.gguf","lfs":null,"size":-1,"of":[{many}]}}],
            "cardData":{{"license":["mit"]}},"config":[{many}],"tags":{{"a":[1.5,true,null]}}}}"#
        );
        let repo = parse(text.as_bytes()).unwrap();
        assert_eq!((repo.files[0].size, repo.files[0].digest, repo.license), (None, None, None));
        for card in ["null", "[]", "5", r#"{"license":5}"#] {
            let text = format!(r#"{{"cardData":{card},"sha":"0123456789","siblings":[]}}"#);
            assert_eq!(parse(text.as_bytes()).unwrap().license, None);
        }
    }
}
