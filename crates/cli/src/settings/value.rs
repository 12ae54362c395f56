//! From text to typed values.

use std::net::SocketAddr;
use std::path::PathBuf;

use ingle_chat::Pooling;
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
            _ => Self::from_name(text)
                .ok_or_else(|| format!("`{text}` is no type of the KV cache: f32, f16, bf16 and q8_0 are")),
        }
    }
}

impl FromText for Pooling {
    fn from_text(text: &str) -> Result<Self, String> {
        Self::from_name(text)
            .ok_or_else(|| format!("`{text}` is no way to pool: mean, cls, last and rank are"))
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
