//! Replies as files. `INGLE_BLESS=1` writes them anew; read the difference before you commit it.

use std::path::PathBuf;

/// Compares a reply with the file of this name, after its id and time were replaced.
pub fn check(name: &str, reply: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name);
    let reply = neutral(reply);
    if std::env::var_os("INGLE_BLESS").is_some() {
        std::fs::write(&path, &reply).expect("the fixtures folder is writable");
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(reply, expected, "{} differs", path.display());
}

/// Ids become `ID` (also where those of calls repeat them), times `0`; all of them must be alike within a reply.
fn neutral(reply: &str) -> String {
    let mut out = reply.to_owned();
    // Items are numbered under their response's id.
    if let Some(at) = out.find("\"resp_") {
        let unique = out[at + 6..].split('"').next().expect("a string ends").to_owned();
        assert_eq!(unique.len(), 32, "{unique}");
        out = out.replace(&unique, "ID");
    }
    for prefix in ["chatcmpl-", "cmpl-", "msg_"] {
        if let Some(at) = out.find(&format!("\"{prefix}")) {
            let id = out[at + 1..].split('"').next().expect("a string ends").to_owned();
            if id.contains("ID") {
                continue;
            }
            assert_eq!(id.len(), prefix.len() + 32, "{id}");
            out = out.replace(&id, &format!("{prefix}ID"));
            out = out.replace(&format!("call_{}_", &id[prefix.len()..][..24]), "call_ID_");
            // Ids of tool calls are made of it.
            out = out.replace(&id[prefix.len()..], "ID");
        }
    }
    for name in ["created", "created_at"] {
        let key = format!("\"{name}\":");
        let Some(at) = out.find(&key) else { continue };
        let digits: String = out[at + key.len()..].chars().take_while(char::is_ascii_digit).collect();
        if !digits.is_empty() {
            assert!(digits.parse::<u64>().expect("a time") > 1_700_000_000);
            out = out.replace(&format!("{key}{digits}"), &format!("{key}0"));
        }
    }
    // Each line of Ollama's has its own.
    let mut rest = std::mem::take(&mut out);
    while let Some((before, after)) = rest.split_once("\"created_at\":\"") {
        let (time, after) = after.split_once('"').expect("a string ends");
        assert!(time.len() == 30 && time.starts_with("20") && time.ends_with('Z'), "{time}");
        out = format!("{out}{before}\"created_at\":\"TIME\"");
        rest = after.to_owned();
    }
    out += &rest;
    out
}
