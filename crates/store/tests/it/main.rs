//! The store as its users see it, on simulated and on real files.

mod basics;
mod bundles;
mod crash;
mod hostile;
mod invariants;
mod kill;
mod modelfiles;
mod network;
mod places;
mod scenarios;
mod small_disk;
mod start;
