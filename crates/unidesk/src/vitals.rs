//! What every process tells of itself on `/metrics`: what it is, and whether it reaches the database.

use metrics::{describe_gauge, gauge};
use service_kit::{Pass, Service};
use std::{sync::Arc, time::Duration};
use store::Store;
use tokio::sync::Notify;

const EVERY: Duration = Duration::from_secs(15);

/// `service`: its name, or `up` for all of them in one process.
pub fn watch(running: &Service, store: &Store, service: &'static str) {
    const BUILD: &str = "unidesk_build_info";
    const DATABASE_UP: &str = "unidesk_database_up";
    describe_gauge!(BUILD, "1, with the version, the commit and the service of this process");
    describe_gauge!(DATABASE_UP, "Whether the database answered this process when it was asked last");
    let commit = option_env!("UNIDESK_COMMIT").unwrap_or("unknown");
    gauge!(BUILD, "version" => env!("CARGO_PKG_VERSION"), "commit" => commit, "service" => service).set(1.0);
    let (store, is_up) = (store.clone(), gauge!(DATABASE_UP));
    running.repeat("vitals", EVERY, Arc::new(Notify::new()), move || {
        let (store, is_up) = (store.clone(), is_up.clone());
        async move {
            let answer = store::in_time(store.ping()).await;
            is_up.set(f64::from(u8::from(answer.is_ok())));
            store.measure();
            answer.map(|()| Pass::Idle)
        }
    });
}
