//! Operations on nodes: their sessions, heartbeats, presence and admission.

pub(crate) mod admission;
pub(crate) mod faults;
pub(crate) mod offline;
pub(crate) mod presence;
pub(crate) mod reconcile;
pub(crate) mod restored;
pub(crate) mod session;
pub(crate) mod silence;
pub(crate) mod view;
