//! Artifacts: what is known about stored files, from the announcement of an upload to the last of their bytes.

pub(crate) mod complete;
pub(crate) mod fsck;
pub(crate) mod garbage;
pub(crate) mod list;
pub(crate) mod parts;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod reserve;
pub(crate) mod retention;
