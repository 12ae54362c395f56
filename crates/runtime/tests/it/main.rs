//! The crate as programs use it: models from files, requests, answers. Tests that choose how many threads compute, or
//! that measure the process, have a process of their own beside this one.

mod adapters;
mod bert;
mod budget;
mod discovery;
mod embeddings;
mod shipped;
mod speculation;
