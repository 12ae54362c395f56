//! The binary, as people call it: its commands, and the server that it is, each in a process of its own.

#![cfg(unix)]

#[cfg(target_os = "linux")]
mod air_gap;
mod batch;
mod bench_serve;
mod chat;
mod commands;
mod create;
mod determinism;
mod faults;
mod fit;
mod hostile;
mod models;
mod outcomes;
mod store;
mod support;
