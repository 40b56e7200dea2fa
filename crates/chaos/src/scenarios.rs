//! All faults, in the order of their worth.

mod daemons;
mod databases;
mod messages;
mod networks;
mod processes;
mod rules;
mod twins;
mod viewers;

use crate::{figures::Scale, scenario::Scenario, table::Row};

pub fn all() -> Vec<Scenario> {
    [
        processes::all(),
        databases::all(),
        networks::all(),
        daemons::all(),
        messages::all(),
        viewers::all(),
        rules::all(),
        twins::all(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Those that end within 40 s and have never failed without a fault of the platform: CI runs two of them, chosen by the commit.
pub const QUICK: [&str; 7] = ["F01", "F05", "F18", "F13", "F34", "F20", "F33"];

/// Those that wait for silence, and so are worth their minutes at the product's own times.
const AT_REAL_TIMES: [&str; 3] = ["F06", "F09", "F14"];

/// What should be measured, in the order of the names.
pub fn rows() -> Vec<Row> {
    let row = |scenario: &str, what: &str, scale| Row { scenario: scenario.into(), what: what.into(), scale };
    let mut all = self::all();
    all.sort_by_key(|scenario| scenario.id);
    let mut rows = Vec::new();
    for scenario in all {
        rows.push(row(scenario.id, scenario.what, Scale::Tenth));
        if AT_REAL_TIMES.contains(&scenario.id) {
            rows.push(row(scenario.id, scenario.what, Scale::Real));
        }
    }
    rows
}
