//! What judges models and servers from outside.
//!
//! [`load`] sends requests to servers and measures how they are answered. It knows them by their HTTP API alone, so that
//! any server that speaks it can be measured, ours and others by the same ruler.

pub mod load;
