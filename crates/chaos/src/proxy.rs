//! Go-betweens that misbehave on purpose, always in the same way for the same seed.

pub mod docker;
pub mod ws;

pub use test_kit::pg_proxy as pg;
