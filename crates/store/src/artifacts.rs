//! Artifacts: what is known about stored files, from the announcement of an upload to the last of their bytes, and
//! what tasks read and leave of them.

pub(crate) mod checkpoints;
pub(crate) mod common;
pub(crate) mod complete;
pub(crate) mod fsck;
pub(crate) mod garbage;
pub(crate) mod list;
pub(crate) mod outputs;
pub(crate) mod parts;
pub(crate) mod pins;
pub(crate) mod read;
pub(crate) mod remove;
pub(crate) mod reserve;
pub(crate) mod retention;
