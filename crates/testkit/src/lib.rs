//! What tests are made of: tiny seeded models, and an executor whose tokens are a pure function of its input.
//! Used only as a dev-dependency.

pub mod bert;
pub mod bytes;
pub mod hostile;
pub mod http;
pub mod hub;
pub mod kill;
pub mod lora;
pub mod quant;
pub mod reply;
pub mod rng;
pub mod scripted;
pub mod shards;
pub mod sim_files;
pub mod stories;
pub mod tiny;
