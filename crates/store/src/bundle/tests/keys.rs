//! Keys, their files and their signatures.

use std::path::Path;
use std::process::Command;

use super::super::sign::{self, PublicKey, SecretKey, TrustedKeys};

#[test]
fn signatures_fit_one_index_and_one_key() {
    let (key, other) = (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
    let (one, two) = ([3; 32], [4; 32]);
    let signature = key.sign(&one);
    assert_eq!(sign::check(&signature, &one).unwrap(), key.public());
    assert!(sign::check(&signature, &two).is_err());
    let mut foreign = signature;
    foreign[..32].copy_from_slice(&other.public().to_bytes());
    assert!(sign::check(&foreign, &one).is_err());
    // The neutral point, which lax verifiers take as a key that signed everything.
    let mut weak = [0; 96];
    weak[0] = 1;
    weak[32] = 1;
    assert!(sign::check(&weak, &one).is_err());
    assert!(sign::check(&[0; 96], &one).is_err());
    // The signature's number, larger by the order of the group: the same point, another spelling.
    let order: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    let mut malleable = signature;
    for (digit, add) in malleable[64..].iter_mut().zip(order) {
        let sum = u16::from(*digit) + u16::from(add) + carry;
        (*digit, carry) = (sum as u8, sum >> 8);
    }
    assert!(sign::check(&malleable, &one).is_err());
}

/// The key pair of RFC 8410, section 10, as OpenSSL writes it.
#[test]
fn key_files_are_those_of_the_rfc() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let secret = "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
                  -----END PRIVATE KEY-----\n";
    write_private(&path, secret);
    let key = SecretKey::read(&path).unwrap();
    let public = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
                  -----END PUBLIC KEY-----\n";
    assert_eq!(key.public().to_pem(), public);
    let again = folder.path().join("again");
    key.write_new(&again).unwrap();
    assert_eq!(std::fs::read_to_string(&again).unwrap(), secret);
    assert!(
        key.write_new(&again).unwrap_err().to_string().contains("again is there already"),
        "keys are not replaced"
    );
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        assert_eq!(again.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&again, PermissionsExt::from_mode(0o640)).unwrap();
        assert!(SecretKey::read(&again).err().unwrap().to_string().contains("chmod 600"));
    }
    let mut trusted = TrustedKeys::default();
    let file = folder.path().join("public.pem");
    std::fs::write(&file, public).unwrap();
    trusted.add(file.to_str().unwrap()).unwrap();
    assert!(trusted.contains(&key.public()));
    assert_eq!(PublicKey::parse(&key.public().to_string()).unwrap(), key.public());
    let word = folder.path().join("again.pub");
    key.public().write_new(&word).unwrap();
    assert!(key.public().write_new(&word).unwrap_err().to_string().contains("again.pub is there already"));
    // With the mark that some editors put before text.
    for text in
        [std::fs::read_to_string(&word).unwrap(), public.to_owned(), format!("# ours\n{}\n", key.public())]
    {
        std::fs::write(&file, format!("\u{feff}{text}")).unwrap();
        let mut trusted = TrustedKeys::default();
        trusted.add_file(&file).unwrap();
        assert!(trusted.contains(&key.public()), "{text}");
    }
}

fn write_private(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

#[test]
fn files_that_hold_no_key_are_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key");
    let word = SecretKey::from_seed(&[1; 32]).public().to_string();
    for (text, part) in [
        ("", "no secret key in PEM"),
        (
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n",
            "is encrypted",
        ),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "another kind than Ed25519"),
        ("-----BEGIN PRIVATE KEY-----\n????\n-----END PRIVATE KEY-----\n", "no secret key in PEM"),
        ("-----BEGIN PRIVATE KEY-----\n", "no secret key in PEM"),
    ] {
        write_private(&path, text);
        let error = SecretKey::read(&path).err().unwrap().to_string();
        assert!(error.contains(part) && error.contains("key"), "{error}");
    }
    let lines = format!("# ours\n\n{word}  the lab, 2026\n  {word} # again\n");
    std::fs::write(&path, &lines).unwrap();
    let mut trusted = TrustedKeys::default();
    trusted.add_file(&path).unwrap();
    assert!(!trusted.is_empty());
    for (text, part) in [
        (format!("{lines}ed25519:abc\n"), "line 5: `ed25519:abc` is no public key"),
        ("rsa key".into(), "line 1"),
        (format!("ed25519:{}\n", "0".repeat(64)), "is no public key"),
        (
            "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n".into(),
            "no public key of kind Ed25519",
        ),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = TrustedKeys::default().add_file(&path).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    assert!(TrustedKeys::default().add("/nonexistent").unwrap_err().to_string().contains("/nonexistent"));
    assert!(SecretKey::read(Path::new("/nonexistent")).err().unwrap().to_string().contains("/nonexistent"));
}

#[test]
fn new_keys_differ() {
    let keys: Vec<_> = (0..3).map(|_| SecretKey::generate().unwrap().public()).collect();
    assert!(keys[0] != keys[1] && keys[1] != keys[2] && keys[0] != keys[2]);
}

/// Another program checks our signatures, and its keys sign here.
#[test]
fn openssl_understands_keys_and_signatures() {
    let folder = tempfile::tempdir().unwrap();
    let openssl = |args: &[&str]| Command::new("openssl").args(args).current_dir(folder.path()).output();
    match openssl(&["genpkey", "-algorithm", "ed25519", "-out", "key.pem"]) {
        Ok(out) if out.status.success() => {}
        _ => return eprintln!("skipped: there is no openssl with Ed25519 here"),
    }
    let path = folder.path().join("key.pem");
    write_private(&path, &std::fs::read_to_string(&path).unwrap());
    let key = SecretKey::read(&path).unwrap();
    let sha256 = [5; 32];
    let signature = key.sign(&sha256);
    let put = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    put("public.pem", key.public().to_pem().as_bytes());
    put("message", &[b"ingle bundle 1\n".as_slice(), &sha256].concat());
    put("signature", &signature[32..]);
    let verify = [
        "pkeyutl",
        "-verify",
        "-pubin",
        "-inkey",
        "public.pem",
        "-rawin",
        "-in",
        "message",
        "-sigfile",
        "signature",
    ];
    let out = openssl(&verify).unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    put("message", b"another");
    assert!(!openssl(&verify).unwrap().status.success());
}
