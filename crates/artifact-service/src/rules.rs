//! Rules about how long artifacts are kept: their routes, and the pass that applies them.

use crate::{
    Times,
    looking::{find, project, view},
    refusals::{bad_parameter, cut, failed, no_such_artifact, permit},
    routes::Shared,
};
use api_types::{
    Problem,
    artifact::{Artifact, CreateRule, Rule, RuleList, RulePreview},
};
use axum::{
    Extension, Json,
    extract::{Path, Request, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use domain::{
    ids::{ArtifactId, ProjectId, RuleId},
    principal::{Origin, Permission, Principal, Scope},
    retention::{MOST_RULES, RetentionRule},
};
use service_kit::{ApiError, Pass, request_body};
use std::collections::BTreeMap;
use store::{RuleView, Store, StoreError};

/// Artifacts that one answer of a preview looks at.
const PREVIEW_LOOKS: u64 = 2_000;

pub(crate) async fn list(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<RuleList>, ApiError> {
    permit(&principal, Permission::Look)?;
    let rules = shared.store.rules(principal.scope()).await.map_err(failed)?;
    Ok(Json(RuleList { rules: rules.into_iter().map(shown).collect() }))
}

pub(crate) async fn add(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    request: Request,
) -> Result<Response, ApiError> {
    let (wanted, project) = read(&shared, &origin.principal, request).await?;
    let made = shared.store.add_rule(project, &wanted.rule, &origin).await.map_err(failed)?;
    let made = made.ok_or_else(|| {
        Problem::new(
            "too-many-rules",
            format!("A project has at most {MOST_RULES} rules. Remove one that is not needed."),
        )
    })?;
    Ok((StatusCode::CREATED, Json(shown(made))).into_response())
}

pub(crate) async fn preview(
    State(shared): State<Shared>,
    Extension(principal): Extension<Principal>,
    request: Request,
) -> Result<Json<RulePreview>, ApiError> {
    let (wanted, project) = read(&shared, &principal, request).await?;
    let no_cursor = || bad_parameter("cursor", "This is no cursor; take next_cursor of the answer before as it is.");
    let mut after = match &wanted.cursor {
        Some(text) => Some(text.parse::<ArtifactId>().map_err(|_| no_cursor())?),
        None => None,
    };
    let (rules, mut answer, mut seen) = ([wanted.rule], RulePreview::default(), 0);
    loop {
        let walked = shared.store.due_by_rules(project, &rules, after).await.map_err(failed)?;
        seen += walked.seen;
        answer.bytes += walked.due.iter().map(|due| due.size).sum::<u64>();
        answer.artifacts.extend(walked.due.into_iter().map(|due| format!("{}@{}", due.name, due.version)));
        after = walked.next;
        if after.is_none() || seen >= PREVIEW_LOOKS {
            answer.next_cursor = after.map(|after| after.to_string());
            return Ok(Json(answer));
        }
    }
}

pub(crate) async fn remove(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    Path(id): Path<String>,
) -> Result<StatusCode, ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    let missing = || ApiError::new("no-such-rule", format!("No rule {:?} in the projects you can see.", cut(&id)));
    let rule: RuleId = id.parse().map_err(|_| missing())?;
    let removed = shared.store.remove_rule(origin.principal.scope(), rule, &origin).await.map_err(failed)?;
    if removed { Ok(StatusCode::NO_CONTENT) } else { Err(missing()) }
}

pub(crate) async fn pin(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<Artifact>, ApiError> {
    set_pinned(&shared, &origin, &name, &uri, true).await
}

pub(crate) async fn unpin(
    State(shared): State<Shared>,
    Extension(origin): Extension<Origin>,
    Path(name): Path<String>,
    uri: Uri,
) -> Result<Json<Artifact>, ApiError> {
    set_pinned(&shared, &origin, &name, &uri, false).await
}

async fn set_pinned(
    shared: &Shared,
    origin: &Origin,
    name: &str,
    uri: &Uri,
    pinned: bool,
) -> Result<Json<Artifact>, ApiError> {
    permit(&origin.principal, Permission::RunTasks)?;
    let found = find(&shared.store, &origin.principal, name, uri).await?;
    let now = shared.store.pin_artifact(found.id, pinned, origin).await.map_err(failed)?;
    now.map(view).map(Json).ok_or_else(|| no_such_artifact("It was there a moment ago."))
}

async fn read(shared: &Shared, principal: &Principal, request: Request) -> Result<(CreateRule, ProjectId), ApiError> {
    permit(principal, Permission::RunTasks)?;
    let wanted: CreateRule = request_body::typed(request).await?;
    let mut faults = wanted.rule.faults();
    if !faults.is_empty() {
        let detail = faults.iter().map(|fault| fault.detail.clone()).collect::<Vec<_>>().join(" ");
        for fault in &mut faults {
            fault.pointer = format!("#/rule{}", fault.pointer.trim_start_matches('#'));
        }
        return Err(Problem::new("invalid-request", detail).errors(faults).into());
    }
    let project = project(&shared.store, principal, wanted.project.as_deref()).await?;
    Ok((wanted, project))
}

fn shown(rule: RuleView) -> Rule {
    Rule {
        id: rule.id,
        project: rule.project_slug,
        rule: rule.rule,
        created_by: rule.created_by,
        created_at: rule.created_at,
    }
}

/// Removes what no rule of its project keeps any longer. Safe to repeat at any point, and by several at once: each artifact is judged
/// once more under its lock.
pub(crate) async fn apply(store: &Store, times: Times) -> Result<Pass, StoreError> {
    let mut projects: BTreeMap<ProjectId, Vec<RetentionRule>> = BTreeMap::new();
    for rule in store.rules(Scope::All).await? {
        projects.entry(rule.project).or_default().push(rule.rule);
    }
    let origin = Origin::platform("artifact-service");
    let mut removed = 0_u64;
    for (project, rules) in projects {
        let mut after = None;
        loop {
            let walked = store.due_by_rules(project, &rules, after).await?;
            for due in walked.due {
                removed += u64::from(store.expire_by_rules(due.id, &rules, times.grace, &origin).await?);
            }
            after = walked.next;
            if after.is_none() {
                break;
            }
        }
    }
    if removed > 0 {
        tracing::info!(artifacts = removed, "removed by rules; their bytes follow");
    }
    metrics::counter!("unidesk_artifacts_removed_by_rules_total").increment(removed);
    Ok(Pass::Idle)
}
