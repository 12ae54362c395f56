//! Every change of a whole bundle is found.

use super::super::SecretKey;
use super::{index_of, noise, plan, read, written};
use crate::bundle::index::BundledModel;
use crate::bundle::writer::Plan;

/// Whether an import with this trust would have shown something.
fn is_taken(bytes: &[u8]) -> bool {
    read(bytes).is_ok()
}

#[test]
fn each_flipped_bit_is_found() {
    for key in [None, Some(SecretKey::from_seed(&[7; 32]))] {
        let whole = written(&plan(), key.as_ref());
        assert!(is_taken(&whole));
        let mut bytes = whole.clone();
        let data = index_of(&whole).1.len();
        for at in 0..bytes.len() {
            // Of what only a hash looks at, one bit of each byte and all of them.
            let every = [1, 2, 4, 8, 16, 32, 64, 128, 0xFF];
            let some = [1 << (at % 8), 0xFF];
            for mask in if at < bytes.len() - data { &every[..] } else { &some } {
                bytes[at] ^= mask;
                assert!(!is_taken(&bytes), "byte {at} changed by {mask:#04x} was not found");
                bytes[at] ^= mask;
            }
        }
        assert_eq!(bytes, whole);
    }
}

#[test]
fn each_cut_and_each_byte_more_is_found() {
    for key in [None, Some(SecretKey::from_seed(&[7; 32]))] {
        let whole = written(&plan(), key.as_ref());
        for n in 0..whole.len() {
            let error = read(&whole[..n]).expect_err("it is cut").to_string();
            let said = if n == 0 { "it is empty".to_owned() } else { format!("it ends after {n} bytes") };
            assert!(error.contains(&said), "{n}: {error}");
        }
        for more in [&b"\0"[..], b"\n", &whole] {
            let error = read(&[&whole, more].concat()).expect_err("it is too long").to_string();
            assert!(error.contains("bytes follow its end"), "{error}");
        }
        for at in (0..whole.len()).step_by(7) {
            let less = [&whole[..at], &whole[at + 1..]].concat();
            assert!(!is_taken(&less), "byte {at} left out");
            let more = [&whole[..at], b"\0", &whole[at..]].concat();
            assert!(!is_taken(&more), "a byte put in at {at}");
        }
    }
}

#[test]
fn random_damage_of_a_larger_bundle_is_found() {
    let big = noise(9, 3_000_000);
    let config = noise(3, 100);
    let mut models: Vec<BundledModel> = vec![super::model("big", &[&config, &big], &[])];
    let mut blobs = super::sources(&[&config, &big]);
    let plan = Plan::with_chunks(&mut models, &mut blobs, &super::imprint(), 65_536, &mut |_, _| {}).unwrap();
    let mut bytes = written(&plan, None);
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut random = |n: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % n as u64) as usize
    };
    for _ in 0..60 {
        let (at, mask) = (random(bytes.len()), 1 << random(8));
        bytes[at] ^= mask;
        assert!(!is_taken(&bytes), "byte {at} changed by {mask:#04x} was not found");
        bytes[at] ^= mask;
        // Two runs of bytes that changed places.
        let (a, b) = (random(bytes.len() - 64), random(bytes.len() - 64));
        if a.abs_diff(b) >= 64 {
            let swap = |bytes: &mut [u8]| (0..64).for_each(|i| bytes.swap(a + i, b + i));
            swap(&mut bytes);
            assert!(!is_taken(&bytes), "bytes at {a} and {b} changed places");
            swap(&mut bytes);
        }
    }
    assert!(is_taken(&bytes));
}

/// Damage is reported where it is.
#[test]
fn errors_say_where() {
    let key = SecretKey::from_seed(&[7; 32]);
    let whole = written(&plan(), Some(&key));
    let start = super::Header::parse(whole[..48].try_into().unwrap()).unwrap().data_start() as usize;
    let check = |at: usize, part: &str| {
        let mut bytes = whole.clone();
        bytes[at] ^= 4;
        let error = read(&bytes).unwrap_err().to_string();
        assert!(error.contains(part), "{at}: {error}");
    };
    check(0, "no bundle");
    check(9, "format 1025");
    check(50, "its index has another checksum");
    check(start - 1, "its signature does not fit");
    check(start - 80, "its signature does not fit");
    check(start, &format!("bytes {start} to "));
    check(whole.len() - 1, &format!("to {} are not", whole.len()));
}
