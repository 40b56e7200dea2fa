//! Backups of a real PostgreSQL that has work, and what comes back of them.

mod restores;
mod world;
