//! Logs of attempts: appended by nodes, read by people.

pub(crate) mod append;
pub(crate) mod read;
