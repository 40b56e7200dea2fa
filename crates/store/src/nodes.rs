//! Operations on nodes: their sessions, heartbeats, presence and admission.

pub(crate) mod admission;
pub(crate) mod offline;
pub(crate) mod session;
pub(crate) mod view;
