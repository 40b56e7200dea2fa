//! Real processes under the real supervisor.

mod kit;

mod ending;
mod isolation;
mod output;
mod restart;
mod running;
mod starter;
