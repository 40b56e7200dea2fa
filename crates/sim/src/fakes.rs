//! Stand-ins for everything that has a clock, a device or a socket in it. Each follows the rules of what it stands for, in
//! the same order and with the same calls into `domain`; what it adds is that the world can make it fail.

pub(crate) mod clients;
pub(crate) mod database;
pub(crate) mod disk;
pub(crate) mod executor;
pub(crate) mod gateway;
pub(crate) mod net;
pub(crate) mod node;
pub(crate) mod recorder;
pub(crate) mod scheduler;
pub(crate) mod session;
pub(crate) mod store;
mod strikes;
pub(crate) mod sweeper;
