//! Templates by name.

/// Names.
pub const BUILTIN_TEMPLATES: [&str; 0] = [];
/// By name.
pub fn builtin_template(_name: &str) -> Option<&'static str> { None }
