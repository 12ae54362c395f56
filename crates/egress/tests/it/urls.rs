//! Spellings of URLs (V63): what each is judged to be by the policy that a machine at home has. The parser is the one
//! that the client connects with, so what is judged here is what would be fetched.

use ingle_egress::{Class, EgressError, HostRule, Policy, Target};

/// What becomes of a URL.
#[derive(Debug, PartialEq, Eq, Clone, Copy)]
enum Fate {
    /// Goes to this host and port.
    Host(&'static str, u16),
    /// Not a URL that is fetched.
    Url,
    /// An address that is not fetched.
    Address,
    /// Not encrypted.
    Insecure,
}
use Fate::{Address, Host, Insecure, Url};

fn fate(text: &str) -> Result<(String, u16), EgressError> {
    let target = Target::parse(text)?;
    Policy::default().check(Class::Hub, &target)?;
    Ok((target.host(), target.port()))
}

/// What is wrong, if anything is.
fn fault(text: &str, expected: Fate) -> Option<String> {
    let found = fate(text);
    let is_expected = match (&found, expected) {
        (Ok((host, port)), Host(h, p)) => host == h && *port == p,
        (Err(EgressError::Url { .. }), Url)
        | (Err(EgressError::Address { .. }), Address)
        | (Err(EgressError::Insecure { .. }), Insecure) => true,
        _ => false,
    };
    (!is_expected).then(|| format!("{text:?}: {found:?}, expected {expected:?}"))
}

const TABLE: &[(Fate, &[&str])] = &[
    (
        Host("hub.example", 443),
        &[
            "https://hub.example",
            "https://hub.example/",
            "https://hub.example:443/",
            "HTTPS://HUB.EXAMPLE/",
            "https://hub.example./",
            "https://hub.example/a/b.gguf?download=true#x",
            "https://hub.example?x",
            "https://hub.example#x",
            "https://h%75b.example/",
            "https://hub.example/http://127.0.0.1/",
            "https://hub.example/@127.0.0.1/",
            "https://hub.example/?url=http://127.0.0.1",
            "https://hub.example/%5c@127.0.0.1",
            "https://hub.example/..%2f..%2fetc",
            "https://hub.example/a;b=c",
            "https://ｈｕｂ.example/",
            "https://hub。example/",
            "https://hub.example:0443/",
        ],
    ),
    (
        Host("hub.example", 8443),
        &["https://hub.example:8443", "https://hub.example:08443/x", "https://HUB.example:8443/?q"],
    ),
    (
        Host("xn--mnchen-3ya.example", 443),
        &["https://münchen.example/", "https://xn--mnchen-3ya.example", "https://MÜNCHEN.example/"],
    ),
    (
        Host("8.8.8.8", 443),
        &[
            "https://8.8.8.8/",
            "https://134744072/",
            "https://0x8.8.8.8",
            "https://8.8.2056/",
            "https://８.8.8.8/",
            "https://010.8.8.8/",
        ],
    ),
    (
        Host("[2606:4700::1111]", 443),
        &["https://[2606:4700::1111]/", "https://[2606:4700:0:0:0:0:0:1111]:443"],
    ),
    // Names that only mean this machine or site to a resolver; the addresses are judged when it has answered.
    (Host("localhost", 443), &["https://localhost/", "https://LOCALHOST", "https://localhost./"]),
    (Host("a.localhost", 443), &["https://a.localhost/"]),
    (Host("127.0.0.0x1g", 443), &["https://127.0.0.0x1g/"]),
    (Host("127.0.0.1.example", 443), &["https://127.0.0.1.example/"]),
    (
        Address,
        &[
            // This machine.
            "https://127.0.0.1/",
            "https://127.0.0.1:8080/",
            "https://127.1/",
            "https://127.0.1/",
            "https://2130706433/",
            "https://0x7f000001/",
            "https://0x7F.0.0.1/",
            "https://0x7f.1/",
            "https://0177.0.0.1/",
            "https://017700000001/",
            "https://127.0.0.1./",
            "https://127.000.000.001/",
            "https://127.255.255.254/",
            "https://1２7.0.0.1/",
            "https://１２７.０.０.１/",
            "https://①②⑦.⓪.⓪.①/",
            "https://127。0。0。1/",
            "https://127．0．0．1/",
            "https://%31%32%37.0.0.1/",
            "https://0/",
            "https://0.0.0.0/",
            "https://0x0/",
            "https://00/",
            "https://0.0/",
            "https://[::1]/",
            "https://[0:0:0:0:0:0:0:1]/",
            "https://[0000::0001]/",
            "https://[::]/",
            "https://[::ffff:127.0.0.1]/",
            "https://[::ffff:7f00:1]/",
            "https://[::FFFF:127.0.0.1]:80/",
            "https://[::127.0.0.1]/",
            "https://[64:ff9b::127.0.0.1]/",
            "https://[64:ff9b:1::7f00:1]/",
            "https://[2002:7f00:1::]/",
            "https://[::ffff:0:127.0.0.1]/",
            "http://127.0.0.1/",
            "http://[::1]/",
            "http://0x7f.1:11434/api/tags",
            // This site.
            "https://10.0.0.1/",
            "https://10.1/",
            "https://167772161/",
            "https://0xa000001/",
            "https://012.0.0.1/",
            "https://172.16.0.1/",
            "https://172.31.255.255/",
            "https://192.168.0.1/",
            "https://192.168.1/",
            "https://0xc0a80001/",
            "https://3232235521/",
            "https://0300.0250.0.1/",
            "https://100.64.0.1/",
            "https://100.127.255.255/",
            "https://169.254.0.1/",
            "https://[fc00::1]/",
            "https://[fd12:3456::1]/",
            "https://[fe80::1]/",
            "https://[fec0::1]/",
            "https://[::ffff:10.0.0.1]/",
            "https://[::ffff:c0a8:1]/",
            "https://[64:ff9b::a00:1]/",
            "https://[2002:c0a8:1::1]/",
            // Metadata services.
            "https://169.254.169.254/latest/meta-data/",
            "http://169.254.169.254/",
            "https://2852039166/",
            "https://0xa9fea9fe/",
            "https://0xA9.0xFE.0xA9.0xFE/",
            "https://0251.0376.0251.0376/",
            "https://169.254.43518/",
            "https://169.16689662/",
            "https://[::ffff:169.254.169.254]/",
            "https://[::ffff:a9fe:a9fe]/",
            "https://[64:ff9b::a9fe:a9fe]/",
            "https://[fd00:ec2::254]/",
            "https://100.100.100.200/",
            "https://168.63.129.16/",
            "https://192.0.0.192/",
            // No host's.
            "https://0.1.2.3/",
            "https://192.0.2.1/",
            "https://198.51.100.1/",
            "https://203.0.113.7/",
            "https://198.18.0.1/",
            "https://224.0.0.1/",
            "https://239.255.255.250/",
            "https://240.0.0.1/",
            "https://255.255.255.255/",
            "https://4294967295/",
            "https://[ff02::1]/",
            "https://[2001:db8::1]/",
            "https://[2001::1]/",
            "https://[100::1]/",
            "https://[3fff::1]/",
            "https://[5f00::1]/",
        ],
    ),
    (
        Insecure,
        &[
            "http://hub.example/",
            "http://hub.example:443/",
            "http://8.8.8.8/",
            "HTTP://HUB.example",
            "http://localhost/",
            "http://[2606:4700::1111]/",
        ],
    ),
    (
        Url,
        &[
            "",
            " ",
            "hub.example",
            "//hub.example/",
            "/etc/passwd",
            "https:",
            "https:/",
            "https://",
            "https:///",
            "https:////hub.example/",
            "https:/hub.example/",
            "https:hub.example",
            "http:///127.0.0.1",
            "https://?x",
            "https://#x",
            "https://:443/",
            "file:///etc/passwd",
            "ftp://hub.example/",
            "gopher://127.0.0.1:6379/_x",
            "dict://127.0.0.1/",
            "data:text/plain,x",
            "javascript:alert(1)",
            "blob:https://hub.example/x",
            "ws://hub.example/",
            "unix:/var/run/docker.sock",
            "jar:https://hub.example!/",
            // Users, passwords, and hosts that hide behind them.
            "https://user@hub.example/",
            "https://user:pw@hub.example/",
            "https://hub.example@127.0.0.1/",
            "https://127.0.0.1@hub.example/",
            "https://hub.example:443@127.0.0.1/",
            "https://hub.example#@127.0.0.1 /",
            "https://a@b@hub.example/",
            "https://:@hub.example/x",
            "https://%40@hub.example/",
            // Backslashes, spaces and control characters, which parsers read in different ways.
            "https:\\\\hub.example\\",
            "https://hub.example\\@127.0.0.1/",
            "https://127.0.0.1\\@hub.example/",
            "https://hub.example\\.evil.example/",
            "https://hub.example\t/",
            "https://hub\n.example/",
            "https://hub.example/\r\nHost: x",
            " https://hub.example/",
            "https://hub.example/ ",
            "\u{1}https://hub.example/",
            "https://hub.example/a b",
            "ht\ntps://hub.example/",
            "https://hub.example/\u{0}",
            "https://hub.example/\u{a0}",
            "https://hub.example/\u{2028}x",
            "https://hub.example/\u{7f}",
            // Hosts that are none.
            "https://[::1/",
            "https://::1/",
            "https://[]/",
            "https://[::1%25eth0]/",
            "https://[fe80::1%eth0]/",
            "https://[1.2.3.4]/",
            "https://[::ffff:127.0.0.1.5]/",
            "https://256.256.256.256/",
            "https://1.2.3.4.5/",
            "https://0x100000000/",
            "https://127.0.0.1%00.hub.example/",
            "https://hub%00.example/",
            "https://hub%2f.example/",
            "https://hub%23.example/",
            "https://hub%20.example/",
            "https://a..example/",
            "https://.example/",
            "https://hub.example../",
            "https://-/:x",
            "https://hub_!.example/",
            "https://hub.example:99999/",
            "https://hub.example:-1/",
            "https://hub.example:0/",
            "https://hub.example:8a/",
            "https://hub.example: 80/",
            "https://a.b.c.123/",
            "https://foo.0x7f/",
            "https://*.example/",
            "https://(hub)/",
            "https://hub'.example/",
            "https://hub;.example/",
            "https://aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example/",
            "https://xn--a/",
            "https://\u{ad}/",
        ],
    ),
];

#[test]
fn spellings() {
    let long = [
        format!("https://hub.example/{}", "a".repeat(17 << 10)),
        format!("https://{}hub.example/", "a.".repeat(200)),
    ];
    let all: Vec<(&str, Fate)> = TABLE
        .iter()
        .flat_map(|(expected, texts)| texts.iter().map(|text| (*text, *expected)))
        .chain(long.iter().map(|text| (text.as_str(), Url)))
        .collect();
    assert!(all.len() >= 150, "only {}", all.len());
    let faults: Vec<String> = all.iter().filter_map(|(text, expected)| fault(text, *expected)).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// What is judged is what is connected to: no spelling changes when it is parsed again, by the client or by a proxy.
#[test]
fn what_was_parsed_parses_to_the_same() {
    for text in TABLE.iter().flat_map(|(_, texts)| *texts) {
        let Ok(target) = Target::parse(text) else { continue };
        assert_eq!(Target::parse(target.as_str()).as_ref(), Ok(&target), "{text}");
        assert!(target.as_str().is_ascii(), "{text}");
    }
}

#[test]
fn refusals_show_no_password() {
    for text in [
        "https://me:s3cret@hub.example/",
        "https://me:s3cret@hub.example/?a=s3cret",
        "https://hub.example\\?s3cret",
    ] {
        let error = fate(text).unwrap_err().to_string();
        assert!(!error.contains("s3cret"), "{error}");
    }
}

#[test]
fn rules() {
    let matches = |rule: &str, url: &str| {
        let hosts = Some(vec![HostRule::parse(rule).unwrap()]);
        let policy = Policy { hosts, ..Policy::default() };
        policy.check(Class::Hub, &Target::parse(url).unwrap()).is_ok()
    };
    for (rule, url, expected) in [
        ("hub.example", "https://hub.example/", true),
        ("HUB.example.", "https://hub.example:8443/", true),
        ("hub.example", "https://a.hub.example/", false),
        ("hub.example", "https://ahub.example/", false),
        ("*.hub.example", "https://a.hub.example/", true),
        ("*.hub.example", "https://a.b.hub.example./", true),
        ("*.hub.example", "https://hub.example/", false),
        ("*.hub.example", "https://ahub.example/", false),
        ("*.hub.example", "https://hub.example.evil.example/", false),
        ("hub.example:443", "https://hub.example/", true),
        ("hub.example:443", "https://hub.example:8443/", false),
        ("hub.example:80", "https://hub.example/", false),
        ("8.8.8.8", "https://0x8.8.8.8/", true),
        ("2606:4700::1111", "https://[2606:4700:0::1111]/", true),
        ("[2606:4700::1111]:443", "https://[2606:4700::1111]/", true),
    ] {
        assert_eq!(matches(rule, url), expected, "{rule} {url}");
    }
    for wrong in
        ["", "https://hub.example", "hub.example/x", "a b", "*.10.0.0.1", "*", "a@b", "hub.example:x", "*.*"]
    {
        assert!(HostRule::parse(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn parts() {
    let target = Target::parse("https://hub.example:8443/a/My%20Model.gguf?sig=1").unwrap();
    assert_eq!(target.file_name().as_deref(), Some("My Model.gguf"));
    assert_eq!(target.authority(), "hub.example:8443");
    assert_eq!(target.to_string(), "https://hub.example:8443/a/My%20Model.gguf");
    let built = target.with_path(&["x y", "a/b", "..", "ü?"]).with_query("n", "a&b");
    assert!(built.as_str().ends_with("x%20y/a%2Fb/%C3%BC%3F?n=a%26b"), "{}", built.as_str());
    for (url, name) in
        [("https://a.example/", None), ("https://a.example/x/", None), ("https://a.example/%ff", None)]
    {
        assert_eq!(Target::parse(url).unwrap().file_name().as_deref(), name, "{url}");
    }
}
