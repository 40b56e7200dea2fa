//! Containers of this installation that no attempt of it knows: the agent died between making one and its record, or the record is
//! gone. They go after a grace. What carries another installation's label is never looked at.

use super::{ContainerExecutor, adopt, docker::SLOW};
use bollard::query_parameters::RemoveContainerOptionsBuilder;
use std::{
    collections::HashMap,
    path::Path,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Since when each is seen without its attempt, by container id.
#[derive(Default)]
pub(super) struct Orphans(Mutex<HashMap<String, Instant>>);

impl Orphans {
    /// Those of `seen` that were orphans for so long.
    fn due(&self, seen: Vec<String>, grace: Duration, now: Instant) -> Vec<String> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        since.retain(|id, _| seen.contains(id));
        seen.into_iter().filter(|id| now.duration_since(*since.entry(id.clone()).or_insert(now)) >= grace).collect()
    }
}

impl ContainerExecutor {
    /// Removes what was an orphan for the grace. `attempts`: one directory an attempt that the agent knows. Returns what went.
    /// Nothing is concluded while Docker can't be asked.
    pub async fn remove_orphans(&self, attempts: &Path) -> Vec<String> {
        let known = match adopt::own_containers(&self.engine, self.settings.instance).await {
            Ok(known) => known,
            Err(error) => {
                tracing::debug!(%error, "containers can't be listed; none is taken for an orphan");
                return Vec::new();
            }
        };
        // Its directory is made before its container, and deleted after it.
        let strays = known.into_iter().filter(|(_, attempt)| !attempts.join(attempt.to_string()).exists());
        let seen = strays.map(|(id, _)| id).collect();
        let mut removed = Vec::new();
        for id in self.orphans.due(seen, self.settings.orphan_grace, Instant::now()) {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            let name = id.clone();
            match self
                .engine
                .call(SLOW, |docker| async move { docker.remove_container(&name, Some(options)).await })
                .await
            {
                Ok(()) => {
                    tracing::warn!(container = %id, "a container of this agent that no attempt knows was removed");
                    removed.push(id);
                }
                Err(error) if error.is_missing() => {}
                Err(error) => tracing::warn!(container = %id, %error, "an orphaned container could not be removed yet"),
            }
        }
        removed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_orphan_goes_after_its_grace_and_one_that_is_claimed_meanwhile_stays() {
        let (orphans, grace, start) = (Orphans::default(), Duration::from_secs(60), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let due =
            |seen: &[&str], seconds| orphans.due(seen.iter().map(|id| (*id).to_owned()).collect(), grace, at(seconds));
        assert!(due(&["a", "b"], 0).is_empty());
        assert!(due(&["a", "b"], 59).is_empty());
        assert!(due(&["a"], 59).is_empty());
        assert_eq!(due(&["a", "b"], 60), ["a"], "b was claimed in between, and counts anew");
    }
}
