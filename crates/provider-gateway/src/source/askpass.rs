//! Credentials on their way to git: a script that git runs when a host asks. No secret stands in a command line, a URL, or an
//! environment; only the place where it lies does.

use super::policy::{Credential, Secret};
use domain::source::RepoUrl;
use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// Answers only if the prompt names the host that the credential is for: git follows a first redirect, and a host must not
/// be able to send our token somewhere else. The user's name stands in the second prompt before the host, so the host is
/// compared from the end.
const SCRIPT: &str = r#"#!/bin/sh
case "$1" in
"Username for '$UNIDESK_ASK_SCHEME://$UNIDESK_ASK_HOST': ") printf '%s\n' "$UNIDESK_ASK_USERNAME" ;;
"Password for '$UNIDESK_ASK_SCHEME://"*"@$UNIDESK_ASK_HOST': ")
    if [ -n "$UNIDESK_ASK_TOKEN_FILE" ]; then exec cat -- "$UNIDESK_ASK_TOKEN_FILE"; fi
    HOME=$UNIDESK_ASK_HOME exec sh -c "$UNIDESK_ASK_HELPER" ;;
*) exit 1 ;;
esac
"#;

/// The script on disk. One for all repositories, written when the cache is opened: a script that is written just before it
/// is run can fail as "text file busy" when another thread starts a process in between.
pub(super) struct Askpass {
    script: PathBuf,
}

impl Askpass {
    /// Writes the script into a directory of mode 0700 inside `root`. Safe to repeat.
    pub(super) fn install(root: &Path) -> io::Result<Self> {
        let dir = root.join("askpass");
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        let script = dir.join("askpass.sh");
        if fs::read(&script).is_ok_and(|text| text == SCRIPT.as_bytes()) {
            return Ok(Self { script });
        }
        let draft = dir.join("askpass.new");
        let _ = fs::remove_file(&draft);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o700).open(&draft)?;
        io::Write::write_all(&mut file, SCRIPT.as_bytes())?;
        drop(file);
        fs::rename(&draft, &script)?;
        Ok(Self { script })
    }

    pub(super) fn asked(&self, url: &RepoUrl, credential: &Credential) -> Asked {
        let (scheme, rest) = url.as_str().split_once("://").expect("a RepoUrl has a scheme");
        let host = rest.split('/').next().unwrap_or(rest);
        let mut environment: Vec<(&'static str, OsString)> = vec![
            ("GIT_ASKPASS", self.script.clone().into()),
            ("UNIDESK_ASK_SCHEME", scheme.into()),
            ("UNIDESK_ASK_HOST", host.into()),
            ("UNIDESK_ASK_USERNAME", credential.username.clone().into()),
        ];
        match &credential.secret {
            Secret::TokenFile(file) => environment.push(("UNIDESK_ASK_TOKEN_FILE", file.into())),
            Secret::Helper(command) => {
                environment.push(("UNIDESK_ASK_HELPER", command.into()));
                environment.push(("UNIDESK_ASK_HOME", std::env::var_os("HOME").unwrap_or_else(|| "/".into())));
            }
        }
        Asked { environment }
    }
}

/// What git's environment needs for one host. Holds no secret.
pub(super) struct Asked {
    environment: Vec<(&'static str, OsString)>,
}

impl Asked {
    pub(super) fn environment(&self) -> impl Iterator<Item = &(&'static str, OsString)> {
        self.environment.iter()
    }
}
