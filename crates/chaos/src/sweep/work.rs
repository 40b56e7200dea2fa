//! Clients that ask for a task, wait until it has ended, and ask for the next one. They ask for no more than the platform does, so a
//! slow machine gets less to do, not a heap.

use crate::{workload::Wanted, world::World};
use client::Client;
use domain::ids::TaskId;
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::{sync::watch, task::JoinSet, time::sleep};

/// How many ask at the same time.
const CLIENTS: usize = 6;
/// How often each looks whether its task has ended.
const LOOK_EVERY: Duration = Duration::from_millis(300);

pub(super) struct Work {
    stopping: watch::Sender<bool>,
    clients: JoinSet<()>,
    refused: Arc<AtomicU32>,
}

impl Work {
    /// `window`: part of the names, each of which there must be once.
    pub(super) fn start(world: &World, window: u32) -> Self {
        let (stopping, stopped) = watch::channel(false);
        let (mut clients, next, refused) = (JoinSet::new(), Arc::new(AtomicU32::new(0)), Arc::new(AtomicU32::new(0)));
        for _ in 0..CLIENTS {
            let (submitter, doors) = (world.submitter.clone(), world.clients.clone());
            let (next, refused, stopped) = (next.clone(), refused.clone(), stopped.clone());
            clients.spawn(async move {
                while !*stopped.borrow() {
                    match submitter.submit(wanted(window, next.fetch_add(1, Ordering::Relaxed))).await {
                        Ok(id) => until_ended(&doors, id, &stopped).await,
                        Err(_) => drop(refused.fetch_add(1, Ordering::Relaxed)),
                    }
                }
            });
        }
        Self { stopping, clients, refused }
    }

    /// Asks for no more and waits until all that was asked is answered. How many were refused or never answered.
    pub(super) async fn stop(mut self) -> u32 {
        self.stopping.send_replace(true);
        while self.clients.join_next().await.is_some() {}
        self.refused.load(Ordering::Relaxed)
    }
}

async fn until_ended(doors: &[Client], id: TaskId, stopped: &watch::Receiver<bool>) {
    for door in doors.iter().cycle().skip(id.as_uuid().as_u128() as usize % doors.len()) {
        sleep(LOOK_EVERY).await;
        let answer = tokio::time::timeout(Duration::from_secs(3), door.task(id)).await;
        if *stopped.borrow() || matches!(answer, Ok(Ok(task)) if task.state.is_terminal()) {
            return;
        }
    }
}

/// Mostly processes of a moment; some with an exit code of their own, some that outlive a kill or two, some exclusive, few containers.
fn wanted(window: u32, number: u32) -> Wanted {
    let name = format!("{window}-{number}");
    let pause = Duration::from_millis(100);
    match number % 16 {
        3 | 11 => Wanted { exit_code: 7, ..Wanted::process(name, 2, pause) },
        5 | 13 => Wanted::process(name, 25, 2 * pause),
        7 => Wanted::container(name, 8, 2 * pause),
        9 => Wanted {
            exclusive: true,
            also: json!({ "on_node_loss": { "exclusive": true, "replace_after": "1s" } }),
            ..Wanted::process(name, 12, 2 * pause)
        },
        _ => Wanted::process(name, 3, pause),
    }
}
