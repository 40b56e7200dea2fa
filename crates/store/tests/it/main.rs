//! Every operation against a real PostgreSQL: one test per answer that it can give, and races with one winner.

mod access;
mod ahead;
mod audit;
mod blackhole;
mod counts;
mod differential;
mod exclusive;
mod expire;
mod failures;
mod feed;
mod giving_up;
mod hints;
mod leader;
mod liveness;
mod logs;
mod nodes;
mod placements;
mod plans;
mod reports;
mod restore;
mod returning;
mod sessions;
mod submit;
mod tasks;
mod turns;
mod world;
