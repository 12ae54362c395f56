//! Indexes that no exporter writes: the checksum fits, and the contents are an enemy's.

use serde_json::{Value, json};

use super::import::{place, take, tree, unsigned};
use super::{index_of, plan, read, with_index, written};
use crate::Digest;
use crate::bundle::index::Index;
use crate::bundle::{BundleError, Stream};

fn sample() -> (String, Vec<u8>) {
    index_of(&written(&plan(), None))
}

fn check(index: &str, data: &[u8], part: &str) {
    let error = read(&with_index(index.as_bytes(), data)).expect_err(part).to_string();
    assert!(error.contains(part), "wanted `{part}`, got `{error}`");
}

/// Changes one value and writes the index as the format does.
fn changed(pointer: &str, value: Value) -> String {
    let (text, _) = sample();
    let mut json: Value = serde_json::from_str(&text).unwrap();
    *json.pointer_mut(pointer).expect("it is there") = value;
    json.to_string()
}

#[test]
fn the_sample_is_taken_and_other_spellings_are_not() {
    let (text, data) = sample();
    read(&with_index(text.as_bytes(), &data)).unwrap();
    let same: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(same.to_string(), text, "the spelling is that of compact JSON");
    let spelled = "is not written as the format writes it";
    for other in [
        format!("{text}\n"),
        format!(" {text}"),
        text.replacen(':', ": ", 1),
        text.replacen("ingle 0.1.0", "ingle 0.1\\u002e0", 1),
        text.replacen("registry.ollama.ai/", "registry.ollama.ai\\/", 1),
        serde_json::to_string_pretty(&same).unwrap(),
    ] {
        check(&other, &data, spelled);
    }
    for (from, to, part) in [
        ("{\"blobs\"", "{\"extra\":1,\"blobs\"", "unknown field `extra`"),
        ("{\"blobs\"", "{\"chunk_bytes\":4096,\"blobs\"", "duplicate field `chunk_bytes`"),
        ("\"offset\":0,", "\"offset\":0,\"offset\":0,", "duplicate field `offset`"),
        ("\"offset\":0,", "\"offset\":-0,", "spelt"),
        ("\"offset\":0,", "\"offset\":0.0,", "floating point"),
        ("\"offset\":0,", "\"offset\":\"0\",", "invalid type"),
        ("\"offset\":0,", "\"offset\":null,", "invalid type"),
        ("\"offset\":0,", "", "missing field `offset`"),
        ("}", "", "its index"),
    ] {
        if part == "spelt" {
            // How a number is spelled otherwise is either no number or not our spelling; both are refused.
            assert!(read(&with_index(text.replacen(from, to, 1).as_bytes(), &data)).is_err());
        } else {
            check(&text.replacen(from, to, 1), &data, part);
        }
    }
    check(&format!("{text}{text}"), &data, "trailing characters");
    check("", &data, "its index");
    check(&"[".repeat(100_000), &data, "its index");
    check("{}", &data, "missing field");
    // Lists of another order than the format's are no index either.
    let mut json: Value = same;
    for (list, part) in [("/blobs", "begins at"), ("/models", "out of order")] {
        json.pointer_mut(list).unwrap().as_array_mut().unwrap().reverse();
        check(&json.to_string(), &data, part);
        json.pointer_mut(list).unwrap().as_array_mut().unwrap().reverse();
    }
}

#[test]
fn extents_that_lie() {
    let (text, data) = sample();
    let index = Index::parse(text.as_bytes()).unwrap();
    let second = &index.blobs[1];
    for (pointer, value, part) in [
        ("/blobs/1/offset", json!(0), "not at"),
        ("/blobs/1/offset", json!(second.offset + 1), "not at"),
        ("/blobs/1/offset", json!(u64::MAX), "not at"),
        ("/blobs/0/offset", json!(1), "not at 0"),
        ("/blobs/0/size", json!(u64::MAX), "claims 18446744073709551615 bytes"),
        ("/blobs/0/size", json!(i64::MAX), "claims 9223372036854775807 bytes"),
        ("/blobs/0/size", json!(i64::MAX / 2), "chunks, where its size makes"),
        ("/blobs/4/size", json!(u64::MAX), "claims"),
        ("/blobs/0/chunks", json!([]), "has 0 chunks"),
        ("/chunk_bytes", json!(0), "its chunks have 0 bytes"),
        ("/chunk_bytes", json!(4095), "its chunks have 4095 bytes"),
        ("/chunk_bytes", json!(512), "its chunks have 512 bytes"),
        ("/chunk_bytes", json!(1u32 << 31), "its chunks have 2147483648 bytes"),
        ("/chunk_bytes", json!(1u64 << 32), "its index"),
        ("/models", json!([]), "it has 0 models"),
        ("/blobs", json!([]), "it has 0 blobs"),
        ("/models/0/name", json!("registry.ollama.ai/library/zeta:8b"), "twice or out of order"),
        ("/models/0/name", json!("registry.ollama.ai/library/ZETA:8b"), "twice or out of order"),
        ("/models/0/name", json!("alpha:latest"), "not named in full"),
        ("/models/0/name", json!("registry.ollama.ai/library/../alpha:x"), "model `"),
        ("/models/0/licences", json!([""]), "its licence is empty"),
        ("/models/0/licences", json!(["\u{1b}[2J"]), "unprintable"),
        ("/models/0/licences", json!(["MIT \u{202e}TIM"]), "unprintable"),
        ("/models/0/licences", json!(vec!["MIT"; 65]), "a list has over 64 entries"),
        ("/creator", json!("x".repeat(257)), "its creator is"),
        ("/creator", json!(""), "its creator is"),
        ("/created", json!("yesterday"), "no time"),
        ("/created", json!("2026-03-14T15:09:26+"), "no time"),
        ("/models/0/manifest", json!("{}"), "the manifest of alpha"),
        ("/models/0/manifest", json!("x".repeat(9 << 20)), "the manifest of alpha"),
    ] {
        check(&changed(pointer, value), &data, part);
    }
}

/// A list that an enemy wrote is read no further than a list may go: each entry takes eight times its text's memory.
#[test]
fn lists_without_end_are_not_read_to_it() {
    let (text, data) = sample();
    let long = |entry: &str, most: usize| format!("{}{entry}", format!("{entry},").repeat(2 * most));
    for (list, entry, most) in [
        ("\"licences\":[", "\"\"", 64),
        ("\"models\":[", "{\"licences\":[],\"manifest\":\"\",\"name\":\"\"}", 4096),
        ("\"blobs\":[", "{\"chunks\":[],\"digest\":\"\",\"offset\":0,\"size\":0}", 65_536),
    ] {
        let at = text.find(list).expect("it is there") + list.len();
        let other = format!("{}{}", &text[..at], long(entry, most));
        // Nothing is there behind the list's entries that it would fail for, if it were read to its end.
        let error = Index::parse(other.as_bytes()).expect_err("it is too long").to_string();
        assert!(error.contains(&format!("a list has over {most} entries at line 1 column ")), "{error}");
        let column: usize = error.rsplit(' ').next().unwrap().parse().expect("it ends with the column");
        assert!(column <= at + (most + 2) * (entry.len() + 1), "{column} of {}", other.len());
        check(&other, &data, "a list has over");
    }
}

/// What nobody vouches for is not even looked into.
#[test]
fn the_index_of_a_stranger_is_not_read() {
    use super::super::{SecretKey, Trust, TrustedKeys, read_trusted_head};
    let key = SecretKey::from_seed(&[1; 32]);
    let mut keys = TrustedKeys::default();
    keys.add(&key.public().to_string()).unwrap();
    let (text, data) = sample();
    let (good, odd) = (written(&plan(), None), with_index(format!("{text} ").as_bytes(), &data));
    let signed = written(&plan(), Some(&key));
    let check = |bundle: &[u8], trust: Trust, refusal: Option<&str>| {
        let error = read_trusted_head(&mut Stream::new(bundle), &trust).err().map(|error| error.to_string());
        match refusal {
            None => assert_eq!(error, None),
            Some(part) => assert!(error.as_ref().is_some_and(|text| text.contains(part)), "{error:?}"),
        }
    };
    let anyone = Trust { allow_unsigned: true, ..Trust::default() };
    let some = Trust { keys, allow_unsigned: false };
    check(&good, anyone.clone(), None);
    check(&odd, anyone, Some("is not written as the format writes it"));
    check(&odd, some.clone(), Some("not signed"));
    check(&odd, Trust::default(), Some("not signed"));
    check(&signed, some, None);
    check(&signed, Trust::default(), Some("not among the trusted keys"));
}

/// A manifest that no store takes, beside a good one: the bundle is refused before anything of it is kept.
#[test]
fn manifests_that_no_store_takes_are_found_first() {
    use super::{imprint, layer, sources};
    use crate::bundle::index::BundledModel;
    use crate::bundle::writer::Plan;
    use crate::{Manifest, MediaType};
    let text = vec![b'x'; (1 << 20) + 1];
    let model = |name: &str, media_type: MediaType| BundledModel {
        name: name.parse().unwrap(),
        manifest: Manifest::new(layer(MediaType::Config, b"{}"), vec![layer(media_type, &text)]),
        licences: Vec::new(),
    };
    let planned = |kind: MediaType| {
        let mut models = vec![model("alpha", MediaType::Model), model("zeta", kind)];
        Plan::with_chunks(&mut models, &mut sources(&[b"{}", &text]), &imprint(), 4096, &mut |_, _| {})
    };
    let error = planned(MediaType::System).unwrap_err().to_string();
    assert!(error.contains("zeta:latest cannot be exported") && error.contains("1048577 bytes"), "{error}");
    let mut bundle = written(&planned(MediaType::Model).unwrap(), None);
    let (index, data) = index_of(&bundle);
    // The same contents, said to be a text in the second model alone.
    let at = index.rfind("application/vnd.ollama.image.model").expect("it is there");
    let name = MediaType::Model.name();
    let other = format!("{}{}{}", &index[..at], MediaType::System.name(), &index[at + name.len()..]);
    bundle = with_index(other.as_bytes(), &data);
    let place = place();
    let error = take(&place.store, &mut Stream::new(&bundle[..]), &unsigned()).unwrap_err();
    assert!(matches!(error, BundleError::Invalid(_)), "{error}");
    assert!(error.to_string().contains("no store takes the manifest of zeta:latest"), "{error}");
    assert_eq!(tree(place.folder.path()), [], "nothing is written anywhere");
}

#[test]
fn blobs_that_are_missing_double_or_nobody_s() {
    let (text, data) = sample();
    let json: Value = serde_json::from_str(&text).unwrap();
    let edit = |edit: &dyn Fn(&mut Vec<Value>)| {
        let mut json = json.clone();
        edit(json["blobs"].as_array_mut().unwrap());
        json.to_string()
    };
    check(&edit(&|blobs| blobs.push(blobs[4].clone())), &data, "twice or out of order");
    check(&edit(&|blobs| blobs.swap(0, 1)), &data, "begins at");
    let reordered = |blobs: &mut Vec<Value>| {
        blobs.swap(0, 1);
        let size = blobs[0]["size"].clone();
        (blobs[0]["offset"], blobs[1]["offset"]) = (json!(0), size);
    };
    check(&edit(&reordered), &data, "out of order");
    check(&edit(&|blobs| drop(blobs.pop())), &data, "lacks its blob");
    let stowaway = |blobs: &mut Vec<Value>| {
        let end = data.len();
        blobs.push(
            json!({"chunks": [], "digest": format!("sha256:{}", "f".repeat(64)), "offset": end, "size": 0}),
        );
    };
    check(&edit(&stowaway), &data, "no model asks for its blob");
    // A manifest that wants another size.
    let manifest = json["models"][0]["manifest"].as_str().unwrap();
    let other = manifest.replacen("\"size\":700", "\"size\":701", 1);
    assert_ne!(other, manifest);
    check(&changed("/models/0/manifest", json!(other)), &data, "wants 701 bytes");
    // The same manifest, spelled otherwise.
    let other = manifest.replacen(':', ": ", 1);
    check(&changed("/models/0/manifest", json!(other)), &data, "not written as the format writes it");
    // Right chunks under a wrong digest: swap two equal-sized claims.
    let digest = Digest::of(b"something else").to_string();
    let text = text.replace(json["blobs"][4]["digest"].as_str().unwrap(), &digest);
    assert!(read(&with_index(text.as_bytes(), &data)).is_err());
}

/// Chunks that are right under a digest that is not theirs.
#[test]
fn a_digest_that_no_chunks_have_is_found() {
    use super::{imprint, model, sources};
    use crate::bundle::writer::Plan;
    let mut models = vec![model("a", &[b"{}", b"weights"], &[])];
    let plan =
        Plan::with_chunks(&mut models, &mut sources(&[b"{}", b"weights"]), &imprint(), 4096, &mut |_, _| {});
    let (text, data) = index_of(&written(&plan.unwrap(), None));
    let (honest, lie) = (Digest::of(b"weights").to_string(), format!("sha256:{}", "f".repeat(64)));
    let other = text.replace(&honest, &lie);
    let json: Value = serde_json::from_str(&other).unwrap();
    let in_order = json["blobs"][1]["digest"] == lie.as_str();
    assert!(in_order, "the lie sorts last, as the honest digest did");
    check(&other, &data, "has the digest");
}

/// Whatever stands in the place of a digest or a name: the whole bundle is refused, and nothing panics.
#[test]
fn a_thousand_hostile_digests_and_names_are_refused() {
    let (_, data) = sample();
    let place = place();
    let hex = "a".repeat(64);
    let heads =
        ["", "sha256:", "sha256-", "SHA256:", "sha512:", "sha256:/", "md5:", "sha256: ", "\u{feff}sha256:"];
    let bodies = [
        "",
        "../../../../etc/passwd",
        "..",
        ".",
        "/etc/passwd",
        "C:\\x",
        "\\\\host\\share",
        "CON",
        "nul",
        "a\0b",
        "%2e%2e%2f",
        "..%2f..",
        "....//....//",
        "~",
        "~root",
        "$HOME",
        "`id`",
        "$(id)",
        "a;b",
        "a|b",
        "a\nb",
        "\r\n",
        "-rf",
        "--help",
        "*",
        "?",
        "a b",
        "\u{202e}gnp",
        "é",
        "ａ",
        "‥/‥",
        "a/../b",
        "blobs/x",
        "manifests/x",
        "tmp/x",
        "locks/x",
        "a:b:c",
        ":",
        "/",
        "//",
        "///",
        "a/b/c/d:e",
        "a/b/c/d/e",
        "...",
        "a.",
        ".a",
        "a/.b",
        "@",
        "a@b",
    ];
    let mut n = 0;
    let mut refuse = |pointer: &str, text: String| {
        n += 1;
        let bundle = with_index(changed(pointer, json!(text)).as_bytes(), &data);
        assert!(read(&bundle).is_err(), "{pointer} {text:?}");
        let taken = take(&place.store, &mut Stream::new(&bundle[..]), &unsigned());
        assert!(matches!(taken, Err(BundleError::Invalid(_))), "{pointer} {text:?}");
    };
    for head in heads {
        for body in bodies {
            for digits in [&hex[..], &hex[..63], ""] {
                refuse("/blobs/0/digest", format!("{head}{body}{digits}"));
            }
        }
    }
    for digits in
        [hex.to_uppercase(), "g".repeat(64), format!("{hex}a"), format!("{hex}\n"), format!("{hex}/..")]
    {
        refuse("/blobs/0/digest", format!("sha256:{digits}"));
    }
    for body in bodies {
        for text in [
            body.to_owned(),
            format!("{body}/library/x:y"),
            format!("registry.ollama.ai/{body}/x:y"),
            format!("registry.ollama.ai/library/{body}:y/"),
            format!("registry.ollama.ai/library/x:{body}/"),
            format!("../registry.ollama.ai/library/{body}:y"),
        ] {
            // Some of these spell a name that may be, but none of them in full and in order.
            let spelled = text
                .parse::<crate::ModelName>()
                .is_ok_and(|name| super::super::index::full_name(&name) == text);
            if !spelled {
                refuse("/models/0/name", text);
            }
        }
    }
    assert!(n > 1000, "{n}");
    assert_eq!(tree(place.folder.path()), [], "nothing is written anywhere");
}
