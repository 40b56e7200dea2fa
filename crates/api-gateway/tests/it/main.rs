//! The real router on a port of its own, before a real PostgreSQL.

mod access;
mod archived;
mod batch;
mod events;
mod feed;
mod idle_nodes;
mod inputs;
mod logs;
mod reads;
mod refusals;
mod submit;
mod tasks;
mod why;
mod world;
