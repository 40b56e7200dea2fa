-- How long artifacts are kept: rules of a project, each as it was written.
CREATE TABLE artifact_rules (
    id               uuid PRIMARY KEY,
    project_id       uuid NOT NULL REFERENCES projects,
    rule             json NOT NULL,
    created_by       uuid NOT NULL,
    -- Of whoever made it, as it was then.
    created_by_name  text NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX artifact_rules_by_project ON artifact_rules (project_id, id);
