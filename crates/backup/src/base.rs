//! A base backup: the files of the server, while it goes on, with their own list of checksums.

use crate::{
    Kind,
    directory::{Directory, Record},
    source::Source,
};
use anyhow::Context as _;
use local_postgres::Programs;
use std::{fs, path::Path};

/// Makes one that has no name yet. It has the part of the log that makes it whole by itself.
pub(crate) async fn make(
    source: &Source,
    directory: &Directory,
    name: &str,
    record: &mut Record,
) -> anyhow::Result<()> {
    let path = directory.partial(Kind::Base, name);
    let mut command = source.command("pg_basebackup");
    command.args(["-Fp", "-X", "stream", "--checkpoint=fast", "-D"]).arg(&path);
    source.programs.run(command).await.context("making a base backup")?;
    check(&source.programs, &path).await?;
    record.first_segment = Some(first_segment(&path)?);
    Ok(())
}

/// Whether every file is what was copied.
pub(crate) async fn check(programs: &Programs, path: &Path) -> anyhow::Result<()> {
    let mut command = programs.command("pg_verifybackup");
    command.args(["--exit-on-error", "--quiet"]).arg(path);
    programs.run(command).await.with_context(|| format!("{} is damaged", path.display())).map(drop)
}

/// With which segment of the log its recovery begins.
fn first_segment(path: &Path) -> anyhow::Result<String> {
    let label = fs::read_to_string(path.join("backup_label")).context("reading the label of the backup")?;
    let segment = label
        .lines()
        .find(|line| line.starts_with("START WAL LOCATION"))
        .and_then(|line| line.split_once("(file ")?.1.split_once(')'))
        .map(|(segment, _)| segment.to_owned());
    segment.filter(|segment| segment.len() == 24).context("the label of the backup names no segment of the log")
}
