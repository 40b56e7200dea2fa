//! The programs that people start, built when they are older than their sources.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// `unidesk`, with `unidesk-shim` beside it.
pub(crate) fn unidesk() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        // Tests lie in `target/PROFILE/deps`.
        let test = std::env::current_exe().expect("this program has a path");
        let profile = test.parent().and_then(Path::parent).expect("a target directory").to_owned();
        // A test that ran an older platform than the one it was built with would say nothing. When all is built this takes 0.2 s.
        let status = Command::new(env!("CARGO"))
            .args(["build", "--quiet", "-p", "unidesk", "-p", "shim", "--bins"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .status();
        assert!(status.expect("cargo runs").success(), "unidesk does not build");
        profile.join("unidesk")
    })
}

pub(crate) fn shim() -> PathBuf {
    unidesk().with_file_name("unidesk-shim")
}
