//! UniDesk as a whole: real Docker, Git over HTTP, PostgreSQL and WebSockets.
//!
//! Owns: what a user gets, from the request to the last byte of the log, also while parts of the platform are away. Begin at
//! [`world`]: a platform in this process; [`programs`] runs it as the programs that people start.

mod agent_restart;
mod artifacts;
mod bad_input;
mod cancel;
mod checkpoints;
mod database_away;
mod deployment;
mod docker_away;
mod doctor;
mod endings;
mod every_route;
mod far;
mod log_archive;
mod main_job;
mod metrics;
mod private_store;
mod programs;
mod roles;
mod scheduling;
mod split;
mod story;
mod task;
mod task_files;
mod tokens;
mod until;
mod up;
mod waiting;
mod world;
