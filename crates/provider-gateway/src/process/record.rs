//! What the agent keeps of an attempt: one small file in the attempt's directory.

use crate::executor::Failure;
use serde::{Deserialize, Serialize};
use std::{
    fs, io,
    path::{Path, PathBuf},
};

const FILE: &str = "process.json";

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    /// Process ids and start times mean nothing after a reboot.
    pub(super) boot_id: String,
    /// The attempt's own user and group; None: the agent's.
    pub(super) uid: Option<u32>,
    /// Holds `work` and `tmp`.
    pub(super) scratch: PathBuf,
    /// Set when all is ready.
    pub(super) provenance: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Record {
    /// None: nothing was prepared here, or it is unreadable, which a crash in its first milliseconds can cause.
    pub(super) fn read(job_dir: &Path) -> Option<Self> {
        serde_json::from_slice(&fs::read(job_dir.join(FILE)).ok()?).ok()
    }

    pub(super) fn write(&self, job_dir: &Path) -> Result<(), Failure> {
        let write = || -> io::Result<()> {
            let unfinished = job_dir.join("process.json.new");
            fs::write(&unfinished, serde_json::to_vec(self)?)?;
            fs::rename(unfinished, job_dir.join(FILE))
        };
        write().map_err(|error| Failure::node(format!("{} can't be written: {error}.", job_dir.join(FILE).display())))
    }

    pub(super) fn delete(job_dir: &Path) {
        let _ = fs::remove_file(job_dir.join(FILE));
    }

    pub(super) fn work(&self) -> PathBuf {
        self.scratch.join("work")
    }
    pub(super) fn tmp(&self) -> PathBuf {
        self.scratch.join("tmp")
    }
}
