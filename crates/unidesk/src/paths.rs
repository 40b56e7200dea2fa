//! Where this program keeps what: settings, state, and the data of a local `up`.

use std::path::PathBuf;

/// What the environment says, taken once; paths are then values.
#[derive(Clone, Debug, Default)]
pub struct Places {
    pub home: Option<PathBuf>,
    pub xdg_config: Option<PathBuf>,
    pub xdg_data: Option<PathBuf>,
    pub xdg_state: Option<PathBuf>,
    /// `UNIDESK_DATA_DIR`.
    pub data_dir: Option<PathBuf>,
    pub is_root: bool,
}

impl Places {
    pub fn from_env() -> Self {
        let path = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        Self {
            home: path("HOME"),
            xdg_config: path("XDG_CONFIG_HOME"),
            xdg_data: path("XDG_DATA_HOME"),
            xdg_state: path("XDG_STATE_HOME"),
            data_dir: std::env::var_os("UNIDESK_DATA_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from),
            is_root: nix::unistd::geteuid().is_root(),
        }
    }

    /// Of `unidesk up`: database, objects, `url`, `admin.token`.
    pub fn data_dir(&self) -> PathBuf {
        if let Some(dir) = &self.data_dir {
            return dir.clone();
        }
        if self.is_root {
            return PathBuf::from("/var/lib/unidesk");
        }
        self.below(&self.xdg_data, ".local/share")
    }

    pub fn credentials(&self) -> PathBuf {
        self.below(&self.xdg_config, ".config").join("credentials")
    }

    /// The newest task that this user submitted, by server.
    pub fn last_task(&self) -> PathBuf {
        self.below(&self.xdg_state, ".local/state").join("last")
    }

    fn below(&self, xdg: &Option<PathBuf>, in_home: &str) -> PathBuf {
        let base = xdg.clone().or_else(|| self.home.as_ref().map(|home| home.join(in_home)));
        base.unwrap_or_else(std::env::temp_dir).join("unidesk")
    }

    /// As a person would write it: with `~` for the home directory.
    pub fn show(&self, path: &std::path::Path) -> String {
        match self.home.as_ref().and_then(|home| path.strip_prefix(home).ok()) {
            Some(rest) => format!("~/{}", rest.display()),
            None => path.display().to_string(),
        }
    }
}
