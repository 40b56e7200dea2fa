//! The routes behind a door that lets in whom the test names, and the loops, before a real PostgreSQL.

mod loops;
mod routes;
mod world;
