//! All faults, in the order of their worth.

mod daemons;
mod databases;
mod messages;
mod networks;
mod processes;
mod rules;
mod viewers;

use crate::scenario::Scenario;

pub fn all() -> Vec<Scenario> {
    [processes::all(), databases::all(), networks::all(), daemons::all(), messages::all(), viewers::all(), rules::all()]
        .into_iter()
        .flatten()
        .collect()
}

/// Those that end within 40 s and have never failed without a fault of the platform: CI runs two of them, chosen by the commit.
pub const QUICK: [&str; 7] = ["F01", "F05", "F18", "F13", "F34", "F20", "F33"];
