//! A dump: all rows at one moment, in PostgreSQL's own compressed form.

use crate::{
    Kind,
    directory::{Directory, Record},
    files,
    source::Source,
};
use anyhow::Context as _;
use local_postgres::Programs;
use std::path::Path;

/// Makes one that has no name yet.
pub(crate) async fn make(
    source: &Source,
    directory: &Directory,
    name: &str,
    record: &mut Record,
) -> anyhow::Result<()> {
    let path = directory.partial(Kind::Dump, name);
    let mut command = source.command("pg_dump");
    command.arg("-Fc").arg("-f").arg(&path);
    source.programs.run(command).await.context("making a dump")?;
    check_list(&source.programs, &path).await?;
    record.sha256 = Some(files::sha256(&path).await?);
    Ok(())
}

async fn check_list(programs: &Programs, path: &Path) -> anyhow::Result<()> {
    let mut command = programs.command("pg_restore");
    command.arg("--list").arg(path);
    programs.run(command).await.with_context(|| format!("{} can't be read", path.display())).map(drop)
}

/// Whether it is byte for byte what was written.
pub(crate) async fn check(programs: &Programs, path: &Path, record: Option<&Record>) -> anyhow::Result<()> {
    if let Some(expected) = record.and_then(|record| record.sha256.as_ref()) {
        let found = files::sha256(path).await?;
        anyhow::ensure!(
            found == *expected,
            "{} is damaged: its checksum is not the one of when it was made",
            path.display()
        );
    }
    check_list(programs, path).await
}
