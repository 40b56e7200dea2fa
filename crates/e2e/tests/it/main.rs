//! UniDesk as a whole: real Docker, Git over HTTP, PostgreSQL and WebSockets.
//!
//! Owns: what a user gets, from the request to the last byte of the log, also while parts of the platform are away. Begin at
//! [`world`]: a platform in this process; [`programs`] runs it as the programs that people start.

mod bad_input;
mod cancel;
mod docker_away;
mod endings;
mod main_job;
mod programs;
mod story;
mod task;
mod tokens;
mod until;
mod waiting;
mod world;
