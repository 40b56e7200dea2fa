//! Makes a failing seed readable: fewer kinds of faults, as long as it fails in the same way.

use crate::{Fault, Outcome, Plan, World};
use std::collections::BTreeSet;

/// The plan with as few kinds of faults as still break the same promise: first halves are left out, then ever smaller parts.
pub fn shrink(plan: &Plan) -> (Plan, Outcome) {
    let mut best = plan.clone();
    let mut outcome = World::new(best.clone()).play();
    let Some(promise) = outcome.violation.as_ref().map(|violation| violation.promise) else { return (best, outcome) };
    let mut part = best.faults.len().div_ceil(2);
    while part > 0 {
        let mut shrunk = false;
        let kinds: Vec<Fault> = best.faults.iter().copied().collect();
        for left_out in kinds.chunks(part) {
            let faults: BTreeSet<Fault> =
                best.faults.iter().filter(|fault| !left_out.contains(fault)).copied().collect();
            let candidate = Plan { faults, ..best.clone() };
            let tried = World::new(candidate.clone()).play();
            if tried.violation.as_ref().is_some_and(|violation| violation.promise == promise) {
                (best, outcome, shrunk) = (candidate, tried, true);
            }
        }
        part = match (shrunk, part) {
            (true, part) => part.min(best.faults.len().div_ceil(2)),
            (false, 1) => 0,
            (false, part) => part / 2,
        };
    }
    (best, outcome)
}
