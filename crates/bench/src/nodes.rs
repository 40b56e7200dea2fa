//! The simulated fleet: nodes with real WebSockets that speak the real protocol and run no-op tasks.
//!
//! [`node`] is what a node says (pure), [`mod@line`] its socket, [`fleet`] many of them in one thread, [`process`] the parent's view.

pub mod figures;
pub mod fleet;
pub mod histogram;
pub mod line;
pub mod node;
pub mod process;

pub use figures::Figures;
pub use process::NodesProcess;
