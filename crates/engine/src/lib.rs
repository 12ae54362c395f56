//! Requests to tokens: the frontend, the scheduler with its blocks and prefix cache, sampling, and the thread that
//! runs them over one [`ingle_step::Executor`].

pub mod block_allocator;
pub mod prefix_cache;
pub mod sampling;
pub mod scheduler;
