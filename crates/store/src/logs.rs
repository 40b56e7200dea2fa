//! Logs of attempts: appended by nodes, read by people, and moved to an object store when they rest.

pub(crate) mod append;
pub(crate) mod archive;
pub(crate) mod moving;
pub(crate) mod packs;
pub(crate) mod read;
