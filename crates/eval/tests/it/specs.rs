//! What options say.

use std::time::Duration;

use ingle_eval::load::arrivals::Pattern;
use ingle_eval::load::lengths::Lengths;
use ingle_eval::load::slo::{Objective, Slo};
use ingle_eval::load::trace::{Synthetic, Trace};
use ingle_eval::load::{Target, parse_time};

use crate::scripted::{synthetic, texts};

#[test]
fn times() {
    let check = |text: &str, expected: Option<u64>| {
        assert_eq!(parse_time(text).ok(), expected.map(Duration::from_micros), "{text}");
    };
    check("200ms", Some(200_000));
    check("1.5s", Some(1_500_000));
    check("50us", Some(50));
    check("2m", Some(120_000_000));
    check("0s", Some(0));
    for bad in ["", "5", "s", "-1s", "nans", "infs", "1h", "1e99s"] {
        check(bad, None);
    }
}

#[test]
fn patterns() {
    for text in ["poisson", "constant", "burst:4", "gamma:2.5"] {
        assert_eq!(text.parse::<Pattern>().unwrap().to_string(), text);
    }
    assert_eq!("burst".parse(), Ok(Pattern::Burst(10)));
    for bad in ["", "gamma", "gamma:0", "gamma:x", "burst:0", "poisson:1", "weibull"] {
        assert!(bad.parse::<Pattern>().is_err(), "{bad}");
    }
}

#[test]
fn lengths() {
    let drawn = |text: &str| -> Vec<u32> {
        let output: Lengths = text.parse().unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(output.to_string().parse::<Lengths>(), Ok(output));
        let trace = Trace::Synthetic(Synthetic { output, ..synthetic() });
        let mut all: Vec<u32> =
            (0..2001).map(|i| trace.session(i, 3, 0, &texts()).unwrap().turns[0].output_tokens).collect();
        all.sort_unstable();
        all
    };
    for fixed in ["7", "fixed:7"] {
        assert_eq!(drawn(fixed), [7; 2001]);
    }
    let uniform = drawn("uniform:10-20");
    assert_eq!((uniform[0], uniform[2000]), (10, 20));
    assert!((14..=16).contains(&uniform[1000]));
    let many = drawn("lognormal:100,0.5,300");
    assert!((95..=105).contains(&many[1000]), "{}", many[1000]);
    assert!((10..100).contains(&many[0]) && (200..=300).contains(&many[2000]));
    // One deviation above the median: 100 e^0.5.
    let high = many[2000 * 841 / 1000];
    assert!((150..=175).contains(&high), "{high}");
    assert_eq!("lognormal:100,0.5".parse(), Ok(Lengths::LogNormal { median: 100, sigma: 0.5, max: 1000 }));
    for bad in [
        "",
        "0",
        "x",
        "2000000",
        "uniform:5",
        "uniform:6-5",
        "uniform:0-5",
        "lognormal:5",
        "lognormal:5,-1",
        "lognormal:5,1,4",
        "lognormal:5,1,9,9",
        "zipf:3",
    ] {
        assert!(bad.parse::<Lengths>().is_err(), "{bad}");
    }
}

#[test]
fn objectives() {
    let parsed: Slo = "ttft=200ms, e2e=1s".parse().unwrap();
    let expected = [(Objective::Ttft, Duration::from_millis(200)), (Objective::E2e, Duration::from_secs(1))];
    assert_eq!(parsed.0, expected);
    for bad in ["", "ttft", "ttft=5", "speed=1s", "ttft=1s,ttft=2s", "ttft=1s,"] {
        assert!(bad.parse::<Slo>().is_err(), "{bad}");
    }
}

#[test]
fn addresses() {
    for good in ["http://127.0.0.1:8080", "http://[::1]:80/v1", "http://host", "http://host:1/base/v1/"] {
        assert!(Target::parse(good).is_ok(), "{good}");
    }
    for (bad, part) in [
        ("https://host", "https is not built in"),
        ("host:80", "no address"),
        ("/path", "no address"),
        ("http://", "no address"),
        ("http://me:secret@host", "no address"),
        ("http://host?x=1", "no address"),
        ("ftp://host", "no address"),
    ] {
        let error = Target::parse(bad).expect_err(bad).to_string();
        assert!(error.contains(part), "{bad}: {error}");
    }
}
