//! What every UniDesk process shares: how it starts, serves, logs and stops.
//!
//! Owns: the accept loop with its time limits, tracked tasks and their ordered end, the one periodic loop, tracing, health,
//! request ids, problems as HTTP answers. Must not know: the database, tasks, nodes.

pub mod health;
pub mod lifecycle;
pub mod metrics;
pub mod problem_response;
pub mod request_body;
pub mod request_id;
pub mod secret;
pub mod serve;
pub mod strict_json;
pub mod telemetry;

pub use lifecycle::{Pass, Service};
pub use problem_response::ApiError;
pub use request_id::RequestId;
