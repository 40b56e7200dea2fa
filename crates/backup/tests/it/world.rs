//! A PostgreSQL of its own, as `up` has it, and what fills it.

use backup::{Backup, Directory, Kind, Lock, Source};
use domain::{
    ids::{DEFAULT_PROJECT, PrincipalId},
    spec::parse_spec,
};
use local_postgres::{Postgres, Programs};
use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};
use store::{DatabaseConfig, NewTask, Store, Submitted};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) home: TempDir,
    pub(crate) postgres: Postgres,
    pub(crate) store: Store,
    pub(crate) source: Source,
    pub(crate) directory: Directory,
    pub(crate) programs: Programs,
}

impl World {
    pub(crate) async fn start() -> Self {
        let home = tempfile::tempdir().expect("a directory");
        // PostgreSQL's user has to pass through.
        fs::set_permissions(home.path(), fs::Permissions::from_mode(0o711)).expect("ours");
        let postgres = Postgres::start(&home.path().join("postgres")).await.expect("PostgreSQL starts");
        let store = connect(&postgres.url()).await;
        store.migrate().await.expect("migrated");
        let programs = Programs::find().expect("PostgreSQL's programs");
        let source = Source::connect(programs.clone(), &postgres.url()).await.expect("connected");
        let directory = Directory::create(&home.path().join("backups"), &programs).expect("made");
        Self { home, postgres, store, source, directory, programs }
    }

    pub(crate) fn lock(&self) -> Lock {
        self.directory.lock().expect("nobody else is here")
    }
    pub(crate) async fn back_up(&self, kind: Kind) -> Backup {
        let lock = self.lock();
        backup::make_beside_service(&self.source, &self.directory, kind, &lock).await.expect("backed up")
    }
    pub(crate) fn names(&self) -> Vec<String> {
        self.directory.list().expect("listed").into_iter().map(|one| one.name).collect()
    }
    pub(crate) fn root(&self) -> PathBuf {
        self.home.path().join("postgres")
    }
    pub(crate) fn scratch(&self) -> PathBuf {
        self.home.path().join("scratch")
    }
    /// The server ends, as it does before a restore.
    pub(crate) async fn down(self) -> (TempDir, Directory, Programs) {
        self.store.close().await;
        self.source.close().await;
        self.postgres.stop().await;
        (self.home, self.directory, self.programs)
    }
}

pub(crate) async fn connect(url: &str) -> Store {
    let config = DatabaseConfig { url: url.to_owned(), max_connections: 4, shared: false };
    Store::connect(&config).await.expect("connected")
}

pub(crate) async fn submit(store: &Store, name: &str) {
    let body = serde_json::json!({"name": name, "command": ["ls"]});
    let spec = parse_spec(&body).expect("a good task");
    let created_by = PrincipalId::from_uuid(Uuid::from_u128(5));
    let new = NewTask { project: DEFAULT_PROJECT, created_by, spec, idempotency: None };
    assert!(matches!(store.submit_tasks(&[new]).await.expect("accepted")[..], [Submitted::Accepted { .. }]));
}
