//! Operations on tasks.

pub(crate) mod cancel;
pub(crate) mod claim_keys;
pub(crate) mod counts;
pub(crate) mod expire;
pub(crate) mod feed;
mod feed_window;
pub(crate) mod get;
pub(crate) mod history;
mod inputs;
pub(crate) mod list;
mod list_sources;
mod list_walk;
pub(crate) mod queue;
pub(crate) mod retry;
pub(crate) mod submit;
