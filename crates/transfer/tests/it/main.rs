//! The engine against a store and a platform that misbehave on purpose.

mod directories;
mod downloads;
mod fake;
mod hostile;
mod uploads;
