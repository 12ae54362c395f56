//! From text to typed values.

use std::net::SocketAddr;
use std::path::PathBuf;

use ingle_chat::{KeepAlive, Pooling};
use ingle_runtime::GuessSource;
use ingle_runtime::models::OnMissing;
use ingle_step::KvType;

/// A type that a setting can have.
pub trait FromText: Sized {
    fn from_text(text: &str) -> Result<Self, String>;
}

macro_rules! numbers {
    ($($t:ty),*) => {$(
        impl FromText for $t {
            fn from_text(text: &str) -> Result<Self, String> {
                text.trim().parse().map_err(|_| format!("`{text}` is not a number between {} and {}", <$t>::MIN, <$t>::MAX))
            }
        }
    )*};
}
numbers!(u8, u16, i32);

/// vLLM's short forms are read too: `32k` is 32000, `32K` is 32768; so with `m` and `M`.
impl FromText for u32 {
    fn from_text(text: &str) -> Result<Self, String> {
        let plain = text.trim();
        let units = [('k', 1000), ('K', 1 << 10), ('m', 1_000_000), ('M', 1 << 20)];
        let (digits, unit) = units
            .iter()
            .find_map(|&(letter, unit)| Some((plain.strip_suffix(letter)?, unit)))
            .unwrap_or((plain, 1));
        let number = digits.parse::<Self>().ok().and_then(|n| n.checked_mul(unit));
        number.ok_or_else(|| format!("`{text}` is not a number between 0 and {}", Self::MAX))
    }
}

impl FromText for f32 {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim().parse::<f32>() {
            Ok(x) if x.is_finite() => Ok(x),
            _ => Err(format!("`{text}` is not a finite number")),
        }
    }
}

impl FromText for bool {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            "" | "1" | "true" | "on" | "yes" => Ok(true),
            "0" | "false" | "off" | "no" => Ok(false),
            _ => Err(format!("`{text}` is neither true nor false")),
        }
    }
}

impl FromText for String {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }
}

impl FromText for PathBuf {
    fn from_text(text: &str) -> Result<Self, String> {
        Ok(Self::from(text))
    }
}

impl FromText for SocketAddr {
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("`{text}` is no address with a port, such as 127.0.0.1:8080 or [::1]:8080"))
    }
}

impl FromText for KvType {
    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            // vLLM's names for 'as the model' and for its 16-bit types.
            "auto" | "float16" => Ok(Self::F16),
            "bfloat16" => Ok(Self::BF16),
            _ => Self::from_name(text).ok_or_else(|| {
                format!("`{text}` is no type of the KV cache: f32, f16, bf16, q8_0 and q4_0 are")
            }),
        }
    }
}

/// The peers' names too.
impl FromText for GuessSource {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "none" => Ok(Self::Off),
            "ngram" | "suffix" | "ngram-simple" | "ngram-map-k" | "ngram-map-k4v" | "ngram-mod" => {
                Ok(Self::Lookup)
            }
            "standalone" | "draft-simple" | "draft-model" => Ok(Self::Draft),
            name => {
                let known = Self::NAMES.into_iter().find(|(known, _)| *known == name);
                known.map(|(_, source)| source).ok_or_else(|| {
                    format!("`{text}` is no source of guesses here: off, lookup, draft and auto are")
                })
            }
        }
    }
}

impl FromText for Pooling {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_name(text)
            .ok_or_else(|| format!("`{text}` is no way to pool: mean, cls, last and rank are"))
    }
}

impl FromText for OnMissing {
    fn from_text(text: &str) -> Result<Self, String> {
        let named = Self::ALL.into_iter().find(|policy| policy.name() == text.trim());
        named.ok_or_else(|| format!("`{text}` is none of wait, refuse and never"))
    }
}

/// How much memory: so many bytes, or a share of what is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Budget {
    Bytes(u64),
    Percent(u8),
}

impl Budget {
    /// A size or a share, as settings spell it.
    ///
    /// # Errors
    /// What a size looks like.
    pub fn parse(text: &str) -> Result<Self, String> {
        Self::from_text(text)
    }
}

impl FromText for Budget {
    fn from_text(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no size, such as 12G (1024^3), 12GB (1000^3) or 50%");
        let plain = text.trim();
        if let Some(percent) = plain.strip_suffix('%') {
            let percent = percent.trim().parse::<u8>().ok().filter(|n| (1..=100).contains(n));
            return percent.map(Self::Percent).ok_or_else(wrong);
        }
        let end = plain.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(plain.len());
        let unit: f64 = match plain[end..].trim().to_ascii_lowercase().as_str() {
            "" | "b" => 1.0,
            "k" | "kib" => 1024.0,
            "m" | "mib" => 1024.0 * 1024.0,
            "g" | "gib" => 1024.0 * 1024.0 * 1024.0,
            "t" | "tib" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
            "kb" => 1e3,
            "mb" => 1e6,
            "gb" => 1e9,
            "tb" => 1e12,
            _ => return Err(wrong()),
        };
        let bytes = plain[..end].parse::<f64>().map_err(|_| wrong())? * unit;
        // Beyond 2^53 a float is no exact number of bytes; nobody has so many.
        match bytes {
            _ if bytes < 1.0 => Err(format!("`{text}` is too small: it is at least one byte")),
            _ if bytes > 9e15 => Err(wrong()),
            _ => Ok(Self::Bytes(bytes as u64)),
        }
    }
}

/// What is wished about thinking.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Think {
    /// The model thinks, or does not.
    Switched(bool),
    /// It thinks this hard.
    Effort(String),
}

impl FromText for Think {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            effort @ ("low" | "medium" | "high" | "max") => Ok(Self::Effort(effort.to_owned())),
            other => bool::from_text(other)
                .map(Self::Switched)
                .map_err(|_| format!("`{text}` is none of true, false, low, medium, high and max")),
        }
    }
}

/// How long a model stays: seconds, a duration as Ollama takes it, or for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep(pub KeepAlive);

impl FromText for Keep {
    fn from_text(text: &str) -> Result<Self, String> {
        match text.trim() {
            "always" => Ok(Self(KeepAlive::Always)),
            plain => ingle_api::ollama::keep_alive(plain)
                .map(Self)
                .ok_or_else(|| format!("`{text}` is no time, such as 300, 5m, 1h30m or always")),
        }
    }
}

/// A count that peers also write as `-1` or `auto` where the program shall choose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Auto(pub Option<u32>);

impl Slot for Auto {
    fn put(&mut self, text: &str) -> Result<(), String> {
        self.0 = match text.trim() {
            "-1" | "auto" => None,
            n => Some(u32::from_text(n)?),
        };
        Ok(())
    }
}

/// A seed; peers write `-1` for 'draw one'.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seed(pub Option<u64>);

impl Slot for Seed {
    fn put(&mut self, text: &str) -> Result<(), String> {
        self.0 = match text.trim() {
            "-1" => None,
            n => Some(
                n.parse().map_err(|_| format!("`{n}` is no seed: 0 to {}, or -1 to draw one", u64::MAX))?,
            ),
        };
        Ok(())
    }
}

/// Put a value where it belongs: set it, or append it to a list.
pub trait Slot {
    fn put(&mut self, text: &str) -> Result<(), String>;
}

impl<T: FromText> Slot for Option<T> {
    fn put(&mut self, text: &str) -> Result<(), String> {
        *self = Some(T::from_text(text)?);
        Ok(())
    }
}

impl Slot for bool {
    fn put(&mut self, text: &str) -> Result<(), String> {
        *self = bool::from_text(text)?;
        Ok(())
    }
}

impl<T: FromText> Slot for Vec<T> {
    fn put(&mut self, text: &str) -> Result<(), String> {
        self.push(T::from_text(text)?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times() {
        let budget = |text| Budget::from_text(text).ok();
        assert_eq!(budget("12G"), Some(Budget::Bytes(12 << 30)));
        assert_eq!(budget("1.5 GiB"), Some(Budget::Bytes(3 << 29)));
        assert_eq!(budget("12GB"), Some(Budget::Bytes(12_000_000_000)));
        assert_eq!(budget("4096"), Some(Budget::Bytes(4096)));
        assert_eq!(budget("50%"), Some(Budget::Percent(50)));
        for wrong in ["", "0", "-1G", "0%", "101%", "G", "12X", "1e9", "1.2.3G", "99999999T"] {
            assert_eq!(budget(wrong), None, "{wrong}");
        }
        let keep = |text| Keep::from_text(text).ok().map(|keep| keep.0);
        let seconds = |n| Some(KeepAlive::For(std::time::Duration::from_secs(n)));
        assert_eq!([keep("300"), keep("5m"), keep("0")], [seconds(300), seconds(300), seconds(0)]);
        assert_eq!([keep("always"), keep("-1"), keep("-1m")], [Some(KeepAlive::Always); 3]);
        assert_eq!([keep(""), keep("soon"), keep("5x")], [None; 3]);
        let policy = |text| OnMissing::from_text(text).ok();
        assert_eq!((policy("refuse"), policy("no")), (Some(OnMissing::Refuse), None));
    }

    #[test]
    fn thinking() {
        let think = |text| Think::from_text(text).ok();
        assert_eq!([think("true"), think("")], [Some(Think::Switched(true)), Some(Think::Switched(true))]);
        assert_eq!(
            [think("false"), think("off")],
            [Some(Think::Switched(false)), Some(Think::Switched(false))]
        );
        assert_eq!(think("high"), Some(Think::Effort("high".into())));
        assert_eq!([think("harder"), think("2")], [None, None]);
    }

    #[test]
    fn counts_seeds_and_automatic() {
        let count = |text| u32::from_text(text).ok();
        assert_eq!(
            [count("32k"), count("32K"), count("1M"), count(" 7 ")],
            [Some(32_000), Some(32_768), Some(1 << 20), Some(7)]
        );
        assert_eq!([count("-1"), count("k"), count("5000000K"), count("1.5k"), count("")], [None; 5]);
        let auto = |text| {
            let mut slot = Auto(Some(9));
            slot.put(text).map(|()| slot.0)
        };
        assert_eq!((auto("-1"), auto("auto"), auto("4")), (Ok(None), Ok(None), Ok(Some(4))));
        assert!(auto("-2").is_err());
        let seed = |text| {
            let mut slot = Seed::default();
            slot.put(text).map(|()| slot.0)
        };
        assert_eq!((seed("-1"), seed("18446744073709551615")), (Ok(None), Ok(Some(u64::MAX))));
        assert!(seed("-7").is_err());
    }
}
