//! `GET /cluster/checks`: whether the platform is set up as it should be, by what it sees itself. For `unidesk doctor`.

use crate::{AppState, auth::permit, failed::failed};
use api_types::check::{Check, ServerChecks};
use axum::{Extension, Json, extract::State};
use chrono::Utc;
use domain::{
    node::Presence,
    principal::{Permission, Principal},
    quantity::{show_bytes, show_duration_ms},
};
use service_kit::ApiError;
use std::time::{Duration, Instant};
use store::DatabaseFacts;

/// The oldest PostgreSQL that is supported.
const OLDEST_POSTGRES: i32 = 150_000;
/// A leader says every second that it is there, and is replaced after 4.
const LEADER_SILENT: f64 = 10.0;
const CLOCKS_APART: Duration = Duration::from_secs(2);
/// A question takes a fraction of a millisecond; whoever waits longer has a far or a busy database.
const SLOW_ANSWER: Duration = Duration::from_millis(50);

pub(crate) async fn checks(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<ServerChecks>, ApiError> {
    permit(&principal, Permission::Administer)?;
    let began = Instant::now();
    state.store.ping().await.map_err(failed)?;
    let answered_in = began.elapsed();
    let (before, facts, after) = (Utc::now(), state.store.database_facts().await.map_err(failed)?, Utc::now());
    // As far as the database's clock lies outside of the time in which it was asked.
    let ahead = (facts.now - after).max(before - facts.now).to_std().unwrap_or_default();
    let nodes = state.fleet.current().await.map_err(failed)?;
    let offline = nodes.iter().filter(|node| node.node.presence == Presence::Offline).count();
    let mut checks = of_database(&facts, answered_in, ahead);
    checks.extend(of_loops(&facts));
    checks.push(of_nodes(nodes.len(), offline));
    Ok(Json(ServerChecks { now: Utc::now(), version: env!("CARGO_PKG_VERSION").to_owned(), checks }))
}

fn of_database(facts: &DatabaseFacts, answered_in: Duration, clocks_apart: Duration) -> Vec<Check> {
    let ms = answered_in.as_secs_f64() * 1_000.0;
    let short = facts.version.split(' ').next().unwrap_or(&facts.version);
    let answer = format!("PostgreSQL {short} answers in {ms:.1} ms and has {} of data", show_bytes(facts.bytes));
    let mut checks = vec![if facts.version_number < OLDEST_POSTGRES {
        Check::failed("database", answer, "UniDesk needs PostgreSQL 15 or later.")
    } else if answered_in > SLOW_ANSWER {
        Check::warning(
            "database",
            answer,
            "Each task takes several round trips: keep the services close to the database, and see what keeps it busy.",
        )
    } else {
        Check::ok("database", answer)
    }];
    checks.push(of_settings(facts));
    checks.push(if facts.data_checksums {
        Check::ok("database-checksums", "a page that the disk has changed is noticed when it is read")
    } else {
        Check::warning(
            "database-checksums",
            "data checksums are off: a page that the disk has changed is not noticed",
            "Stop PostgreSQL and run: pg_checksums --enable -D PGDATA",
        )
    });
    let (used, most) = (facts.connections, i64::from(facts.max_connections));
    let connections = format!("{used} of {most} connections are in use");
    checks.push(if used * 5 >= most * 4 {
        Check::warning(
            "database-connections",
            connections,
            "Raise max_connections, or lower UNIDESK_DATABASE_CONNECTIONS of the services.",
        )
    } else {
        Check::ok("database-connections", connections)
    });
    let apart = format!("{:.1} s between the database and this server", clocks_apart.as_secs_f64());
    checks.push(if clocks_apart > CLOCKS_APART {
        Check::warning(
            "database-clock",
            apart,
            "Leases go by the database's clock alone, but credentials do not: let both keep time by NTP.",
        )
    } else {
        Check::ok("database-clock", apart)
    });
    checks
}

fn of_settings(facts: &DatabaseFacts) -> Check {
    let off: Vec<&str> = [
        ("fsync", facts.fsync),
        ("full_page_writes", facts.full_page_writes),
        ("synchronous_commit", facts.synchronous_commit != "off"),
    ]
    .into_iter()
    .filter_map(|(name, is_on)| (!is_on).then_some(name))
    .collect();
    if off.is_empty() {
        return Check::ok("database-settings", "what is acknowledged is on disk");
    }
    let verb = if off.len() == 1 { "is" } else { "are" };
    let names = off.join(", ");
    Check::failed(
        "database-settings",
        format!("{names} {verb} off: what was acknowledged may be gone after a power cut"),
        format!("Set {} = on in postgresql.conf and restart PostgreSQL.", off.join(" = on, ")),
    )
}

fn of_loops(facts: &DatabaseFacts) -> [Check; 2] {
    let check = |id: &str, does: &str, service: &str, silent: Option<f64>| match silent {
        Some(silent) if silent.abs() < LEADER_SILENT => Check::ok(id, format!("one {service} leads: it {does}")),
        silent => {
            let since = match silent {
                Some(seconds) => {
                    format!("no {service} has led for {}", show_duration_ms((seconds.max(0.0) * 1_000.0) as u64))
                }
                None => format!("no {service} ever led"),
            };
            Check::failed(
                id,
                format!("{since}: nobody {does}"),
                format!("Start `unidesk server {service}`; if it runs, its log says what holds it up."),
            )
        }
    };
    [
        check("scheduler", "places tasks", "scheduler", facts.scheduler_silent_s),
        check("node-registry", "watches over nodes", "node-registry", facts.sweeper_silent_s),
    ]
}

fn of_nodes(all: usize, offline: usize) -> Check {
    match (all, offline) {
        (0, _) => Check::warning(
            "nodes",
            "no machine has joined",
            "unidesk node-token create --name NODE says how one joins.",
        ),
        (all, 0) => Check::ok("nodes", format!("{all} joined, none offline")),
        (all, offline) => Check::warning(
            "nodes",
            format!("{all} joined, {offline} offline"),
            "unidesk node list shows since when; `node revoke` takes those away that will not come back.",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api_types::check::CheckOutcome;

    fn good() -> DatabaseFacts {
        DatabaseFacts {
            version: "15.18 (Debian 15.18-0+deb12u1)".into(),
            version_number: 150_018,
            fsync: true,
            full_page_writes: true,
            synchronous_commit: "on".into(),
            data_checksums: true,
            max_connections: 100,
            connections: 20,
            bytes: 1 << 30,
            now: Utc::now(),
            scheduler_silent_s: Some(0.5),
            sweeper_silent_s: Some(0.5),
        }
    }

    fn of(facts: &DatabaseFacts, answered_ms: u64, apart_s: u64) -> Vec<(String, CheckOutcome)> {
        let mut checks = of_database(facts, Duration::from_millis(answered_ms), Duration::from_secs(apart_s));
        checks.extend(of_loops(facts));
        checks
            .into_iter()
            .filter(|check| check.outcome != CheckOutcome::Ok)
            .map(|check| (check.id, check.outcome))
            .collect()
    }

    #[test]
    fn what_is_wrong_is_named_and_nothing_else() {
        use CheckOutcome::{Failed, Warning};
        assert_eq!(of(&good(), 1, 0), []);
        let cases: [(DatabaseFacts, &str, CheckOutcome); 8] = [
            (DatabaseFacts { version_number: 140_011, ..good() }, "database", Failed),
            (DatabaseFacts { fsync: false, ..good() }, "database-settings", Failed),
            (DatabaseFacts { full_page_writes: false, ..good() }, "database-settings", Failed),
            (DatabaseFacts { synchronous_commit: "off".into(), ..good() }, "database-settings", Failed),
            (DatabaseFacts { data_checksums: false, ..good() }, "database-checksums", Warning),
            (DatabaseFacts { connections: 80, ..good() }, "database-connections", Warning),
            (DatabaseFacts { scheduler_silent_s: Some(60.0), ..good() }, "scheduler", Failed),
            (DatabaseFacts { sweeper_silent_s: None, ..good() }, "node-registry", Failed),
        ];
        for (facts, id, outcome) in cases {
            assert_eq!(of(&facts, 1, 0), [(id.to_owned(), outcome)]);
        }
        assert_eq!(of(&good(), 200, 0), [("database".to_owned(), Warning)]);
        assert_eq!(of(&good(), 1, 5), [("database-clock".to_owned(), Warning)]);
    }

    #[test]
    fn what_is_off_is_named_together() {
        let check = of_settings(&DatabaseFacts { fsync: false, full_page_writes: false, ..good() });
        assert_eq!(check.found, "fsync, full_page_writes are off: what was acknowledged may be gone after a power cut");
        assert_eq!(
            check.advice.as_deref(),
            Some("Set fsync = on, full_page_writes = on in postgresql.conf and restart PostgreSQL.")
        );
        assert_eq!(of_nodes(3, 1).found, "3 joined, 1 offline");
    }
}
