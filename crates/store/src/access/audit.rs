//! The append-only record of who changed what, from where. Written in the transaction of the change itself.

use crate::{Store, StoreError};
use domain::{
    Timestamp,
    ids::{Held, ProjectId},
    principal::Origin,
};
use serde_json::{Value, json};

impl Store {
    /// Somebody was given a credential for the files of an attempt.
    pub async fn note_credential(
        &self,
        project: ProjectId,
        held: Held,
        expires_at: Timestamp,
        origin: &Origin,
    ) -> Result<(), StoreError> {
        let mut connection = self.pool_for(1).acquire().await?;
        let detail = json!({ "fence": held.fence, "expires_at": expires_at });
        let subject = held.attempt.to_string();
        self.write_audit(&mut connection, Some(project), origin, "attempt.credential", &subject, &detail).await
    }

    pub(crate) async fn write_audit(
        &self,
        connection: &mut sqlx::PgConnection,
        project: Option<ProjectId>,
        origin: &Origin,
        action: &str,
        subject: &str,
        detail: &Value,
    ) -> Result<(), StoreError> {
        sqlx::query!(
            "INSERT INTO audit (project_id, actor_kind, actor_id, actor_name, address, request_id, action, subject, detail)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            project.map(|project| project.as_uuid()),
            origin.principal.kind.as_str(),
            origin.principal.id.as_uuid(),
            origin.principal.name,
            origin.address,
            origin.request_id,
            action,
            subject,
            detail
        )
        .execute(connection)
        .await?;
        Ok(())
    }
}
