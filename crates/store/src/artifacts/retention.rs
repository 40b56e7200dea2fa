//! Rules about how long artifacts are kept, and what they remove: slice by slice through a project, each artifact judged once more
//! under its lock.

use super::{
    read::{ArtifactView, by_id},
    remove::{Expiry, expire},
};
use crate::{
    Store, StoreError,
    json::{JsonText, read_json, write_json},
};
use chrono::{DateTime, Utc};
use domain::{
    artifact::ArtifactState,
    ids::{ArtifactId, ProjectId, RuleId},
    principal::{Origin, Scope},
    retention::{CompiledRule, Kept, MOST_RULES, RetentionRule},
};
use serde_json::json;
use sqlx::PgConnection;
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// Artifacts that are looked at in one statement.
const SLICE: i64 = 200;

#[derive(Clone, Debug, PartialEq)]
pub struct RuleView {
    pub id: RuleId,
    pub project: ProjectId,
    pub project_slug: String,
    pub rule: RetentionRule,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
}

/// What a walk over artifacts has come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Walked {
    /// What rules would remove.
    pub due: Vec<Due>,
    /// Artifacts that were looked at.
    pub seen: u64,
    /// Where the next slice begins. None: that was the last one.
    pub next: Option<ArtifactId>,
}

/// An artifact whose time is over by a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    pub id: ArtifactId,
    pub name: String,
    pub version: u32,
    pub size: u64,
}

/// One artifact as rules see it.
struct Seen {
    name: String,
    labels: BTreeMap<String, String>,
    age_ms: u64,
    newer: u32,
}

impl Seen {
    fn is_removed_by(&self, rules: &[CompiledRule<'_>]) -> bool {
        let kept = Kept { name: &self.name, labels: &self.labels, age_ms: self.age_ms, newer: self.newer };
        rules.iter().any(|rule| rule.removes(&kept))
    }
}

impl Store {
    /// None: the project has as many rules as it may have.
    pub async fn add_rule(
        &self,
        project: ProjectId,
        rule: &RetentionRule,
        origin: &Origin,
    ) -> Result<Option<RuleView>, StoreError> {
        let id = Uuid::now_v7();
        let mut transaction = self.begin_for(1).await?;
        let made = sqlx::query!(
            r#"WITH made AS (
                 INSERT INTO artifact_rules (id, project_id, rule, created_by, created_by_name)
                 SELECT $1, $2, $3, $4, $5 WHERE (SELECT count(*) FROM artifact_rules WHERE project_id = $2) < $6
                 RETURNING project_id, created_at
               ) SELECT p.slug, m.created_at FROM made m JOIN projects p ON p.id = m.project_id"#,
            id,
            project.as_uuid(),
            write_json(rule) as _,
            origin.principal.id.as_uuid(),
            origin.principal.name,
            MOST_RULES as i64
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(made) = made else { return Ok(None) };
        let detail = json!({ "rule": rule });
        self.write_audit(&mut transaction, Some(project), origin, "artifact_rule.add", &id.to_string(), &detail)
            .await?;
        transaction.commit().await?;
        Ok(Some(RuleView {
            id: RuleId::from_uuid(id),
            project,
            project_slug: made.slug,
            rule: rule.clone(),
            created_by: origin.principal.name.clone(),
            created_at: made.created_at,
        }))
    }

    /// All rules that the scope reaches, by project, the oldest first.
    pub async fn rules(&self, scope: Scope) -> Result<Vec<RuleView>, StoreError> {
        let rows = sqlx::query_as!(
            Row,
            r#"SELECT r.id, r.project_id, p.slug, r.rule AS "rule: JsonText", r.created_by_name, r.created_at
               FROM artifact_rules r JOIN projects p ON p.id = r.project_id
               WHERE $1::uuid IS NULL OR r.project_id = $1 ORDER BY r.project_id, r.id"#,
            scope.project().map(ProjectId::as_uuid)
        )
        .fetch_all(self.pool_for(1))
        .await?;
        rows.into_iter().map(Row::view).collect()
    }

    /// False: there is none of this id that the scope reaches.
    pub async fn remove_rule(&self, scope: Scope, rule: RuleId, origin: &Origin) -> Result<bool, StoreError> {
        let mut transaction = self.begin_for(1).await?;
        let removed = sqlx::query!(
            r#"DELETE FROM artifact_rules WHERE id = $1 AND ($2::uuid IS NULL OR project_id = $2) RETURNING project_id, rule AS "rule: JsonText""#,
            rule.as_uuid(),
            scope.project().map(ProjectId::as_uuid)
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(removed) = removed else { return Ok(false) };
        let project = ProjectId::from_uuid(removed.project_id);
        let detail = json!({ "rule": read_json::<RetentionRule>(removed.rule)? });
        self.write_audit(&mut transaction, Some(project), origin, "artifact_rule.remove", &rule.to_string(), &detail)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// A slice of what rules of a project would remove now, after this artifact.
    pub async fn due_by_rules(
        &self,
        project: ProjectId,
        rules: &[RetentionRule],
        after: Option<ArtifactId>,
    ) -> Result<Walked, StoreError> {
        let compiled: Vec<CompiledRule<'_>> = rules.iter().map(RetentionRule::compile).collect();
        let rows = sqlx::query!(
            r#"SELECT a.id, a.name, a.version, a.size, a.labels AS "labels: JsonText", a.pinned, a.state,
                      (extract(epoch FROM now() - a.ready_at) * 1000)::bigint AS age_ms,
                      CASE WHEN a.state = 'ready' AND NOT a.pinned THEN
                        (SELECT count(*) FROM (SELECT FROM artifacts n WHERE n.project_id = a.project_id AND n.name = a.name AND n.state = 'ready'
                                                 AND n.version > a.version LIMIT $4) newer) ELSE 0 END AS "newer!"
               FROM (SELECT * FROM artifacts WHERE project_id = $1 AND id > $2 ORDER BY id LIMIT $3) a ORDER BY a.id"#,
            project.as_uuid(),
            after.map_or(Uuid::nil(), ArtifactId::as_uuid),
            SLICE,
            most_kept(rules)
        )
        .fetch_all(self.pool_for(1))
        .await?;
        let next = rows.last().filter(|_| rows.len() as i64 == SLICE).map(|row| ArtifactId::from_uuid(row.id));
        let mut walked = Walked { due: Vec::new(), seen: rows.len() as u64, next };
        for row in rows.into_iter().filter(|row| row.state == ArtifactState::Ready.as_str() && !row.pinned) {
            let seen = Seen {
                name: row.name,
                labels: read_json(row.labels)?,
                age_ms: row.age_ms.unwrap_or(0).unsigned_abs(),
                newer: u32::try_from(row.newer).unwrap_or(u32::MAX),
            };
            if seen.is_removed_by(&compiled) {
                walked.due.push(Due {
                    id: ArtifactId::from_uuid(row.id),
                    name: seen.name,
                    version: row.version.unwrap_or(0).unsigned_abs(),
                    size: row.size.unwrap_or(0).unsigned_abs(),
                });
            }
        }
        Ok(walked)
    }

    /// Expires an artifact if one of the rules still says so now that it is locked. Safe to repeat. False: it is spared.
    pub async fn expire_by_rules(
        &self,
        artifact: ArtifactId,
        rules: &[RetentionRule],
        grace: Duration,
        origin: &Origin,
    ) -> Result<bool, StoreError> {
        let id = artifact.as_uuid();
        let passed = self.forget_ended_readers(artifact).await?;
        let mut transaction = self.begin_for(1).await?;
        let Some(seen) = lock_and_look(&mut transaction, id, most_kept(rules)).await? else { return Ok(false) };
        let compiled: Vec<CompiledRule<'_>> = rules.iter().map(RetentionRule::compile).collect();
        let because = rules.iter().zip(&compiled).find(|(_, rule)| seen.is_removed_by(std::slice::from_ref(rule)));
        let Some((because, _)) = because else { return Ok(false) };
        if expire(&mut transaction, id, &passed, None, grace).await? != Expiry::Done {
            return Ok(false);
        }
        let Some(removed) = by_id(&mut transaction, id).await? else { return Ok(false) };
        let detail = json!({ "name": removed.name, "version": removed.version, "rule": because });
        self.write_audit(&mut transaction, Some(removed.project), origin, "artifact.expire", &id.to_string(), &detail)
            .await?;
        transaction.commit().await?;
        Ok(true)
    }

    /// Whether rules may remove it. Safe to repeat. None: there is none.
    pub async fn pin_artifact(
        &self,
        artifact: ArtifactId,
        pinned: bool,
        origin: &Origin,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let id = artifact.as_uuid();
        let mut transaction = self.begin_for(1).await?;
        let changed = sqlx::query!("UPDATE artifacts SET pinned = $2 WHERE id = $1 AND pinned <> $2", id, pinned)
            .execute(&mut *transaction)
            .await?
            .rows_affected();
        let Some(now) = by_id(&mut transaction, id).await? else { return Ok(None) };
        if changed > 0 {
            let (action, detail) = (
                if pinned { "artifact.pin" } else { "artifact.unpin" },
                json!({ "name": now.name, "version": now.version }),
            );
            self.write_audit(&mut transaction, Some(now.project), origin, action, &id.to_string(), &detail).await?;
        }
        transaction.commit().await?;
        Ok(Some(now))
    }
}

/// The columns of a rule.
struct Row {
    id: Uuid,
    project_id: Uuid,
    slug: String,
    rule: JsonText,
    created_by_name: String,
    created_at: DateTime<Utc>,
}

impl Row {
    fn view(self) -> Result<RuleView, StoreError> {
        Ok(RuleView {
            id: RuleId::from_uuid(self.id),
            project: ProjectId::from_uuid(self.project_id),
            project_slug: self.slug,
            rule: read_json(self.rule)?,
            created_by: self.created_by_name,
            created_at: self.created_at,
        })
    }
}

/// No rule asks for more.
fn most_kept(rules: &[RetentionRule]) -> i64 {
    rules.iter().filter_map(|rule| rule.keep_last).max().unwrap_or(0).into()
}

/// Locks it, and the count of its name's versions, so that none of them goes at the same time. None: no rule may remove it.
async fn lock_and_look(connection: &mut PgConnection, id: Uuid, most: i64) -> Result<Option<Seen>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT project_id, name, version, labels AS "labels: JsonText", (extract(epoch FROM now() - ready_at) * 1000)::bigint AS age_ms
           FROM artifacts WHERE id = $1 AND state = 'ready' AND NOT pinned FOR NO KEY UPDATE"#,
        id
    )
    .fetch_optional(&mut *connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    super::remove::lock_name(connection, row.project_id, &row.name).await?;
    let newer = sqlx::query_scalar!(
        r#"SELECT count(*) AS "newer!" FROM (SELECT FROM artifacts WHERE project_id = $1 AND name = $2 AND state = 'ready' AND version > $3 LIMIT $4) newer"#,
        row.project_id,
        row.name,
        row.version,
        most
    )
    .fetch_one(connection)
    .await?;
    Ok(Some(Seen {
        name: row.name,
        labels: read_json(row.labels)?,
        age_ms: row.age_ms.unwrap_or(0).unsigned_abs(),
        newer: u32::try_from(newer).unwrap_or(u32::MAX),
    }))
}
