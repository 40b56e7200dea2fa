//! What a builder says, line of JSON by line, turned into a build log and into what is known when it fails.

use super::buildkit;
use domain::quantity::show_duration_ms;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// Last lines of output kept for a failure's message.
const TAIL_LINES: usize = 8;
const TAIL_LINE_BYTES: usize = 240;

#[derive(Default)]
pub(super) struct Transcript {
    /// What went wrong, in the builder's words.
    pub(super) error: Option<String>,
    /// The step at work, or the one that failed: `[2/3] RUN make`.
    pub(super) step: Option<String>,
    pub(super) image_id: Option<String>,
    pub(super) tail: VecDeque<String>,
    /// Steps that the classic builder adds for labels: they are not the user's.
    added_steps: usize,
    classic_steps: usize,
    /// BuildKit: names of the Dockerfile's steps by digest.
    vertexes: BTreeMap<String, String>,
    announced: BTreeSet<String>,
    finished: BTreeSet<String>,
    /// Whose output the log shows: several steps may write at once.
    speaking: String,
}

#[derive(Deserialize)]
struct Line {
    stream: Option<String>,
    status: Option<String>,
    id: Option<String>,
    #[serde(rename = "progressDetail")]
    progress: Option<serde_json::Value>,
    error: Option<String>,
    aux: Option<serde_json::Value>,
}

impl Transcript {
    pub(super) fn new(added_steps: usize) -> Self {
        Self { added_steps, ..Self::default() }
    }

    /// How many steps of a Dockerfile were run or found in the cache.
    pub(super) fn steps(&self) -> usize {
        let of_buildkit: BTreeSet<&str> =
            self.vertexes.values().filter(|name| step_of(name).is_some()).map(String::as_str).collect();
        self.classic_steps.max(of_buildkit.len())
    }

    /// Takes one line; gives back what belongs into the build log.
    pub(super) fn take(&mut self, json: &[u8]) -> Vec<u8> {
        let Ok(line) = serde_json::from_slice::<Line>(json) else { return Vec::new() };
        if let Some(error) = line.error {
            let text = format!("{error}\n");
            self.error = Some(error);
            return text.into_bytes();
        }
        if let Some(aux) = line.aux {
            return match (line.id.as_deref(), aux) {
                (Some("moby.buildkit.trace"), serde_json::Value::String(trace)) => self.take_trace(&trace),
                (_, aux) => {
                    self.image_id =
                        aux.get("ID").and_then(|id| id.as_str()).map(str::to_owned).or(self.image_id.take());
                    Vec::new()
                }
            };
        }
        if let Some(text) = line.stream {
            return self.take_classic(&text);
        }
        match (line.status, line.id, line.progress) {
            // Progress bars are redrawn ten times a second: only whole layers are told.
            (Some(status), _, None) => format!("{status}\n").into_bytes(),
            (Some(status), Some(id), Some(_)) if status.ends_with("complete") => {
                format!("{id}: {status}\n").into_bytes()
            }
            _ => Vec::new(),
        }
    }

    fn take_classic(&mut self, text: &str) -> Vec<u8> {
        // Docker separates its messages with an empty item each.
        if text == "\n" {
            return Vec::new();
        }
        if let Some((numbers, instruction)) = text.strip_prefix("Step ").and_then(|rest| rest.split_once(" : ")) {
            let (this, total) = numbers.split_once('/').unwrap_or((numbers, ""));
            self.classic_steps = total.trim().parse::<usize>().unwrap_or(0).saturating_sub(self.added_steps);
            self.step = Some(format!("[{this}/{}] {}", self.classic_steps, instruction.trim()));
            self.tail.clear();
            return format!("{}\n", text.trim_end()).into_bytes();
        }
        self.remember(text);
        text.as_bytes().to_vec()
    }

    fn take_trace(&mut self, aux: &str) -> Vec<u8> {
        let Some(status) = buildkit::decode(aux) else { return Vec::new() };
        let mut out = Vec::new();
        for vertex in status.vertexes {
            self.take_vertex(&vertex, &mut out);
        }
        for log in status.logs {
            let name = self.vertexes.get(&log.vertex).cloned().unwrap_or_default();
            if self.speaking != log.vertex {
                self.tail.clear();
                out.extend_from_slice(format!("=> {name}\n").as_bytes());
                self.speaking = log.vertex;
            }
            self.remember(&String::from_utf8_lossy(&log.message));
            out.extend_from_slice(&log.message);
        }
        out
    }

    fn take_vertex(&mut self, vertex: &buildkit::Vertex, out: &mut Vec<u8>) {
        if vertex.name.is_empty() {
            return;
        }
        self.vertexes.insert(vertex.digest.clone(), vertex.name.clone());
        if !vertex.error.is_empty() && !vertex.error.ends_with("context canceled") {
            self.step = Some(vertex.name.clone());
        }
        if vertex.started.is_some() && !vertex.cached && self.announced.insert(vertex.digest.clone()) {
            out.extend_from_slice(format!("=> {}\n", vertex.name).as_bytes());
            self.speaking.clone_from(&vertex.digest);
        }
        let is_done = vertex.cached || (vertex.completed.is_some() && vertex.error.is_empty());
        // Docker's own housekeeping is over in milliseconds; a reader wants to see where time went.
        let took = vertex.duration_ms().filter(|ms| *ms >= 500);
        if is_done && self.finished.insert(vertex.digest.clone()) {
            if vertex.cached {
                out.extend_from_slice(format!("=> {} (cached)\n", vertex.name).as_bytes());
            } else if let Some(ms) = took {
                out.extend_from_slice(format!("=> {} took {}\n", vertex.name, show_duration_ms(ms)).as_bytes());
            }
            self.speaking.clear();
        }
    }

    fn remember(&mut self, text: &str) {
        let of_builder = |line: &str| line.starts_with(" --->") || line.starts_with("Removing intermediate container");
        for line in text.lines().filter(|line| !line.trim().is_empty() && !of_builder(line)) {
            let cut: String = line.trim_end().chars().take(TAIL_LINE_BYTES).collect();
            self.tail.push_back(cut);
            if self.tail.len() > TAIL_LINES {
                self.tail.pop_front();
            }
        }
    }
}

/// `2/3` and `RUN make` of `[build 2/3] RUN make`; None for what is no step of the Dockerfile.
pub(super) fn step_of(name: &str) -> Option<(&str, &str)> {
    let (inside, instruction) = name.strip_prefix('[')?.split_once("] ")?;
    let numbers = inside.rsplit(' ').next()?;
    let (this, all) = numbers.split_once('/')?;
    (this.trim().parse::<u32>().is_ok() && all.parse::<u32>().is_ok()).then_some((numbers, instruction))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_classic_builders_words_become_a_log_and_a_step() {
        let mut transcript = Transcript::new(5);
        let mut log = Vec::new();
        for line in [
            r#"{"stream":"Step 1/7 : FROM base"}"#,
            r#"{"stream":"\n"}"#,
            r#"{"stream":" ---\u003e bbed6fae1b5a\n"}"#,
            r#"{"stream":"Step 2/7 : RUN make"}"#,
            r#"{"stream":"cc: no input\n"}"#,
            r#"{"errorDetail":{"code":5,"message":"x"},"error":"The command returned a non-zero code: 5"}"#,
        ] {
            log.extend(transcript.take(line.as_bytes()));
        }
        assert_eq!(transcript.steps(), 2);
        assert_eq!(transcript.step.as_deref().and_then(step_of), Some(("2/2", "RUN make")));
        assert_eq!(transcript.tail, ["cc: no input"]);
        assert!(String::from_utf8_lossy(&log).contains("Step 2/7 : RUN make\ncc: no input\n"));
    }

    #[test]
    fn only_numbered_names_are_steps_of_the_dockerfile() {
        assert_eq!(step_of("[build 12/13] COPY . /x"), Some(("12/13", "COPY . /x")));
        assert_eq!(step_of("[internal] load metadata for a/b"), None);
        assert_eq!(step_of("exporting to image"), None);
    }
}
