//! Operations on tasks.

pub(crate) mod cancel;
pub(crate) mod feed;
pub(crate) mod get;
pub(crate) mod history;
pub(crate) mod list;
pub(crate) mod queue;
pub(crate) mod retry;
pub(crate) mod submit;
