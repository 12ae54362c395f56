//! From text to typed values.

use std::net::SocketAddr;
use std::path::PathBuf;

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
numbers!(u8, u16, u32, u64, usize, i32, i64);

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
