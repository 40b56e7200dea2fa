//! `GET /cluster/status`: the platform at a glance.

use crate::{AppState, failed::failed};
use api_types::node::{ClusterStatus, SilenceAlarm};
use axum::{Extension, Json, extract::State};
use domain::{node::Presence, principal::Principal, task::TaskState};
use service_kit::ApiError;
use std::collections::BTreeMap;

pub(crate) async fn status(
    State(state): State<AppState>,
    Extension(principal): Extension<Principal>,
) -> Result<Json<ClusterStatus>, ApiError> {
    let counts = state.store.count_tasks(principal.scope()).await.map_err(failed)?;
    let all = state.fleet.current().await.map_err(failed)?;
    let alarm = state.store.silence_alarm().await.map_err(failed)?;
    let mut tasks: BTreeMap<String, u64> = TaskState::ALL.map(|state| (state.to_string(), 0)).into();
    tasks.extend(counts.into_iter().map(|(state, count)| (state.to_string(), count)));
    let mut nodes: BTreeMap<String, u64> = [Presence::Connected, Presence::Disconnected, Presence::Offline]
        .map(|presence| (presence.to_string(), 0))
        .into();
    for node in all.iter() {
        *nodes.entry(node.node.presence.to_string()).or_default() += 1;
    }
    // What is offline is no capacity, and what is held there is none of it.
    let here = || all.iter().filter(|node| node.node.presence != Presence::Offline);
    let total = |amount: fn(&domain::resources::Capacity) -> u64| here().map(|n| amount(&n.node.facts.capacity)).sum();
    let reserved = |amount: fn(&domain::resources::Reservation) -> u64| here().map(|n| amount(&n.in_place())).sum();
    Ok(Json(ClusterStatus {
        tasks,
        nodes,
        cpu_millis_total: total(|capacity| capacity.cpu_millis),
        cpu_millis_reserved: reserved(|held| held.cpu_millis),
        memory_bytes_total: total(|capacity| capacity.memory_bytes),
        memory_bytes_reserved: reserved(|held| held.memory_bytes),
        gpus_total: total(|capacity| capacity.gpus.len() as u64),
        gpus_reserved: reserved(|held| held.gpu_ids.len() as u64),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        alarm: alarm.map(|alarm| SilenceAlarm {
            silent_nodes: alarm.silent as u64,
            of_nodes: alarm.of as u64,
            nothing_offline_before: alarm.until,
        }),
    }))
}
