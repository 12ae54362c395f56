//! Versions as REQUIRES names them.

/// A version of three numbers, perhaps with what stands before or behind a release (`0.14.0`, `v1.2.3-rc1`); without a
/// `v`. Missing numbers are as they were written.
///
/// # Errors
/// If it is no version; the text says what one is.
pub fn check_version(text: &str) -> Result<String, String> {
    let bare = text.strip_prefix('v').unwrap_or(text);
    let wrong = || "a version is three numbers with points between, such as 0.14.0".to_owned();
    let (rest, build) = bare.split_once('+').map_or((bare, None), |(rest, build)| (rest, Some(build)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(core, pre)| (core, Some(pre)));
    let is_number = |part: &str| {
        !part.is_empty()
            && part.len() <= 10
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let is_word = |part: &str| {
        !part.is_empty() && part.len() <= 64 && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let parts: Vec<&str> = core.split('.').collect();
    let has_tail = pre.is_some() || build.is_some();
    let fits = (1..=3).contains(&parts.len())
        && (parts.len() == 3 || !has_tail)
        && parts.iter().all(|part| is_number(part))
        && [pre, build].into_iter().flatten().all(|tail| tail.split('.').all(is_word));
    if fits { Ok(bare.to_owned()) } else { Err(wrong()) }
}
