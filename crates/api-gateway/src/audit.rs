//! `GET /audit/invariants`: asks the database whether everything is true that always should be. Costs it some work: admins only.

use crate::{AppState, auth::permit, failed::failed};
use api_types::audit::{Audit, Invariant, InvariantState};
use axum::{Extension, Json, extract::State};
use domain::principal::{Permission, Principal};
use service_kit::ApiError;
use std::time::Duration;
use store::{Depth, Finding, Outcome};

/// Less than an answer may take to begin.
const WITHIN: Duration = Duration::from_secs(25);

pub(crate) async fn invariants(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<Audit>, ApiError> {
    permit(&principal, Permission::Administer)?;
    let findings = state.store.audit(Depth::Whole, WITHIN).await.map_err(failed)?;
    let clean = findings.iter().all(|finding| finding.outcome == Outcome::Holds);
    Ok(Json(Audit { clean, invariants: findings.into_iter().map(invariant).collect() }))
}

fn invariant(Finding { id, says, outcome }: Finding) -> Invariant {
    let (state, rows, more, because) = match outcome {
        Outcome::Holds => (InvariantState::Holds, Vec::new(), 0, None),
        Outcome::Broken { rows, more } => (InvariantState::Broken, rows, more, None),
        Outcome::Unknown(because) => (InvariantState::Unknown, Vec::new(), 0, Some(because)),
    };
    Invariant { id: id.into(), says: says.into(), state, rows, more, because }
}
