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

/// Ids become `ID`, times `0`; all of them must be alike within a reply.
fn neutral(reply: &str) -> String {
    let mut out = reply.to_owned();
    for prefix in ["chatcmpl-", "cmpl-"] {
        if let Some(at) = out.find(&format!("\"{prefix}")) {
            let id = out[at + 1..].split('"').next().expect("a string ends").to_owned();
            assert_eq!(id.len(), prefix.len() + 32, "{id}");
            out = out.replace(&id, &format!("{prefix}ID"));
        }
    }
    if let Some(at) = out.find("\"created\":") {
        let digits: String = out[at + 10..].chars().take_while(char::is_ascii_digit).collect();
        assert!(digits.parse::<u64>().expect("a time") > 1_700_000_000);
        out = out.replace(&format!("\"created\":{digits}"), "\"created\":0");
    }
    out
}
