//! Lists of artifacts, the newest first.

use super::read::{ArtifactView, select_artifacts, view};
use crate::{Store, StoreError};
use domain::{
    artifact::ArtifactState,
    ids::{ArtifactId, ProjectId},
    principal::Scope,
};
use uuid::Uuid;

/// Candidates that one statement reads: each costs some paths through an index.
const AT_ONCE: usize = 50;
/// Candidates that one page looks at beyond those that it shows; then it is a short one.
const MOST_PASSED_OVER: usize = 500;

#[derive(Clone, Debug, Default)]
pub struct ArtifactFilter {
    pub name: Option<String>,
    /// None: those that are not removed.
    pub states: Option<Vec<ArtifactState>>,
    /// All of these: a key, and its value if that matters.
    pub labels: Vec<(String, Option<String>)>,
}

impl ArtifactFilter {
    fn takes(&self, artifact: &ArtifactView) -> bool {
        let is_wanted = match &self.states {
            Some(states) => states.contains(&artifact.state),
            None => !matches!(artifact.state, ArtifactState::Expired | ArtifactState::Deleted),
        };
        is_wanted
            && self.labels.iter().all(|(key, value)| {
                artifact.labels.get(key).is_some_and(|has| value.as_ref().is_none_or(|value| value == has))
            })
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct ArtifactPage {
    pub artifacts: Vec<ArtifactView>,
    /// Where the next page begins. None: there is no more.
    pub next: Option<ArtifactId>,
}

impl Store {
    /// Those before `before`, of one project or of all that the scope reaches: up to `limit`. A page may be short and yet not be the last.
    pub async fn list_artifacts(
        &self,
        scope: Scope,
        filter: &ArtifactFilter,
        before: Option<ArtifactId>,
        limit: usize,
    ) -> Result<ArtifactPage, StoreError> {
        let mut artifacts = Vec::new();
        let mut before = before.map_or(Uuid::max(), ArtifactId::as_uuid);
        let mut passed_over = 0;
        loop {
            let candidates = self.artifacts_before(scope, filter, before).await?;
            let is_end = candidates.len() < AT_ONCE;
            for candidate in candidates {
                if artifacts.len() == limit || passed_over > MOST_PASSED_OVER {
                    return Ok(ArtifactPage { artifacts, next: Some(ArtifactId::from_uuid(before)) });
                }
                before = candidate.id.as_uuid();
                if filter.takes(&candidate) {
                    artifacts.push(candidate);
                } else {
                    passed_over += 1;
                }
            }
            if is_end {
                return Ok(ArtifactPage { artifacts, next: None });
            }
        }
    }

    async fn artifacts_before(
        &self,
        scope: Scope,
        filter: &ArtifactFilter,
        before: Uuid,
    ) -> Result<Vec<ArtifactView>, StoreError> {
        let at_once = AT_ONCE as i64;
        let records = match (scope.project().map(ProjectId::as_uuid), &filter.name) {
            (None, None) => {
                select_artifacts!("WHERE a.id < $1 ORDER BY a.id DESC LIMIT $2", before, at_once)
                    .fetch_all(&self.pool)
                    .await?
            }
            // A name is looked for in one project: it means something else in each.
            (project, Some(name)) => {
                let project = project.unwrap_or(domain::ids::DEFAULT_PROJECT.as_uuid());
                select_artifacts!(
                    "WHERE a.project_id = $1 AND a.name = $2 AND a.id < $3 ORDER BY a.id DESC LIMIT $4",
                    project,
                    name,
                    before,
                    at_once
                )
                .fetch_all(&self.pool)
                .await?
            }
            (Some(project), None) => {
                select_artifacts!(
                    "WHERE a.project_id = $1 AND a.id < $2 ORDER BY a.id DESC LIMIT $3",
                    project,
                    before,
                    at_once
                )
                .fetch_all(&self.pool)
                .await?
            }
        };
        records.into_iter().map(view).collect()
    }
}
