//! Go-betweens that misbehave on purpose, always in the same way for the same seed.

pub mod docker;
pub mod pg;
pub mod ws;
