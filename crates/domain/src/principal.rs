//! Who is asking. Every handler gets one, and every store operation that a person causes names it.

use crate::ids::{PrincipalId, ProjectId};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    pub kind: PrincipalKind,
    pub id: PrincipalId,
    /// What people call it: the name of its API key.
    pub name: String,
    pub role: Role,
    /// The project that this principal acts in; None for a platform admin, who acts in all.
    pub project: Option<ProjectId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    ApiKey,
    Node,
    Platform,
}

impl PrincipalKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Node => "node",
            Self::Platform => "platform",
        }
    }
}

/// What an API key may do. More roles come with project membership.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    Admin,
    Member,
    Viewer,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Member => "member",
            Self::Viewer => "viewer",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Admin, Self::Member, Self::Viewer].into_iter().find(|role| role.as_str() == text)
    }
}

/// Something that a principal wants to do. Authorisation is asked here and nowhere else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permission {
    /// See tasks, logs, nodes, artifacts.
    Look,
    /// Submit, cancel and retry tasks; put and remove artifacts.
    RunTasks,
    /// Issue and revoke tokens and keys, drain nodes.
    Administer,
}

impl Principal {
    pub fn may(&self, permission: Permission) -> bool {
        match (self.role, permission) {
            (Role::Admin, _)
            | (Role::Member | Role::Viewer, Permission::Look)
            | (Role::Member, Permission::RunTasks) => true,
            (Role::Viewer, Permission::RunTasks) | (Role::Member | Role::Viewer, Permission::Administer) => false,
        }
    }
    /// Which rows a read may see.
    pub fn scope(&self) -> Scope {
        self.project.map_or(Scope::All, Scope::Project)
    }
}

/// Which projects' rows a read sees. Every read of the store takes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    All,
    Project(ProjectId),
}

impl Scope {
    /// The form that queries bind: null sees everything.
    pub fn project(self) -> Option<ProjectId> {
        match self {
            Self::All => None,
            Self::Project(project) => Some(project),
        }
    }
}

/// Where a change came from, for the audit log.
#[derive(Clone, Debug)]
pub struct Origin {
    pub principal: Principal,
    /// The peer's address as the server saw it.
    pub address: String,
    pub request_id: String,
}

impl Origin {
    /// The platform acts, and no person. `address`: which part of it, for the log.
    pub fn platform(address: &str) -> Self {
        let principal = Principal {
            kind: PrincipalKind::Platform,
            id: PrincipalId::from_uuid(uuid::Uuid::nil()),
            name: "platform".to_owned(),
            role: Role::Admin,
            project: None,
        };
        Self { principal, address: address.to_owned(), request_id: String::new() }
    }
}
