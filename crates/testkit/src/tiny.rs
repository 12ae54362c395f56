//! Tiny models with seeded weights, as GGUF bytes.
