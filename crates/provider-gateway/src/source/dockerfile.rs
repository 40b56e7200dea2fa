//! Finds the Dockerfile that a task names. What is wrong with the path is told in full, since it is the user's to mend.

use super::tree::{EntryKind, Reader};
use crate::executor::Failure;
use domain::{outcome::FailureKind, source::DockerfilePath};
use git2::ObjectType;
use std::path::Path;

/// A Dockerfile is text that somebody wrote.
pub const MAX_DOCKERFILE_BYTES: u64 = 1 << 20;

impl Reader {
    /// The Dockerfile. What is wrong with the path is the user's own and ends as `build_failed`.
    pub fn dockerfile(&self, path: &DockerfilePath) -> Result<Vec<u8>, Failure> {
        let refuse =
            |why: String| Failure::new(FailureKind::BuildFailed, format!("dockerfile_path {:?} {why}", path.as_str()));
        let mut walked = String::new();
        for part in path.as_str().split('/') {
            let parent = walked.clone();
            if !walked.is_empty() {
                walked.push('/');
            }
            walked.push_str(part);
            let is_last = walked.len() == path.as_str().len();
            let here = if is_last { "it".to_owned() } else { format!("{walked:?}") };
            match self.entry(&walked)? {
                None => {
                    let there = self.dockerfiles_in(&parent)?;
                    let hint =
                        if there.is_empty() { String::new() } else { format!("; there is {}", there.join(", ")) };
                    return Err(refuse(format!("is not in {}{hint}", self.what())));
                }
                Some(EntryKind::Submodule) => {
                    return Err(refuse(format!("is not a file: {here} is a submodule, which is not fetched")));
                }
                Some(EntryKind::Symlink) => {
                    return Err(refuse(format!("is not a file: {here} is a symbolic link; name the file itself")));
                }
                Some(EntryKind::Directory) if is_last => {
                    return Err(refuse("is a directory; name the Dockerfile in it".into()));
                }
                Some(EntryKind::File { .. }) if !is_last => {
                    return Err(refuse(format!("is not there: {here} is a file, not a directory")));
                }
                Some(EntryKind::File { bytes, .. }) if bytes > MAX_DOCKERFILE_BYTES => {
                    return Err(refuse("is larger than 1 MiB, the most that a Dockerfile may have".into()));
                }
                Some(EntryKind::Directory | EntryKind::File { .. }) => {}
            }
        }
        let tree = self.root()?;
        let entry = self.git(tree.get_path(Path::new(path.as_str())))?;
        Ok(self.blob(entry.id())?.content().to_vec())
    }

    /// Up to five files in a directory whose names say what they are.
    fn dockerfiles_in(&self, directory: &str) -> Result<Vec<String>, Failure> {
        let mut tree = self.root()?;
        if !directory.is_empty() {
            let entry = self.git(tree.get_path(Path::new(directory)))?;
            tree = self.git(self.repository.find_tree(entry.id()))?;
        }
        let names = tree.iter().filter(|entry| entry.kind() == Some(ObjectType::Blob));
        let names = names.map(|entry| String::from_utf8_lossy(entry.name_bytes()).into_owned());
        let prefix = if directory.is_empty() { String::new() } else { format!("{directory}/") };
        let alike = names.filter(|name| name.to_ascii_lowercase().contains("dockerfile"));
        Ok(alike.take(5).map(|name| format!("{:?}", format!("{prefix}{name}"))).collect())
    }
}
