//! The program as a server, in a process of its own: the same bytes whatever happens, and what happens when things go
//! wrong.

#![cfg(unix)]

mod determinism;
mod faults;
mod served;
mod store;
