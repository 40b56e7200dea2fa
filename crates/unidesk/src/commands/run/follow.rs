//! Follows a task to its end: events, log and signals at once, and every byte of ours in its place between the task's own.

use super::{
    Args,
    story::{Story, Want},
};
use crate::{
    context::{Context, Server},
    cuts::Cuts,
    exit,
    failure::Failure,
    output::{Progress, json_line},
    render::{phases, result},
    sink::{Chunk, Closed, Sink},
    style::Glyph,
    terminal::Key,
    text::{clean, plural, show_count},
};
use api_types::{log::LogQuery, task::Task, why::Why};
use bytes::Bytes;
use client::{ClientError, Followed, LogItem, Piece};
use domain::ids::TaskId;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    collections::VecDeque,
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Output that arrives before the events that explain it waits at most so long for them.
const GATE: Duration = Duration::from_millis(1_500);
/// How long the rest of a log may take once the task has ended.
const LOG_GRACE: Duration = Duration::from_secs(15);
const STILL_EVERY: Duration = Duration::from_secs(30);

/// What was asked in the background, and its answer.
enum Answer {
    Task(Result<Task, ClientError>),
    /// The task, fetched because of this attempt.
    Attempt(u32, Result<Task, ClientError>),
    Why(Result<Why, ClientError>),
    Cancelled(Result<Task, ClientError>),
}

/// Why the loop was left.
enum Left {
    Ended,
    /// The user wants to go without the task.
    Detached,
    /// Asked to cancel, and told to go, or the node did not confirm in time.
    Unconfirmed,
    Closed,
    /// Trying again can't mend it.
    Failed(ClientError),
}

impl From<Closed> for Left {
    fn from(_: Closed) -> Self {
        Self::Closed
    }
}

pub(super) async fn follow(context: &Context, server: &Server, task: Task, args: &Args) -> Result<ExitCode, Failure> {
    let id = task.id;
    let mut follow = Follow::new(context, server, task, args.dockerfile_path.as_deref().unwrap_or_default())?;
    let streams = if follow.out().progress == Progress::Off { "stdout,stderr" } else { "stdout,stderr,build,system" };
    let query = LogQuery { stream: Some(streams.into()), ..LogQuery::default() };
    let mut events = std::pin::pin!(server.client.follow_events(id));
    let mut log = std::pin::pin!(server.client.follow_log(id, &query));
    let sink = Sink::start();
    let code = match follow.until_end(&sink, &mut events, &mut log).await {
        Left::Failed(error) => {
            follow.erase();
            follow.drain(sink).await;
            return Err(server.failure(&error));
        }
        Left::Ended => {
            let task = wait_for_end(server, id).await?;
            follow.tell_end(&task);
            exit::of_task(&task)
        }
        Left::Detached => exit::DONE,
        Left::Unconfirmed => {
            follow.say(
                Glyph::Warning,
                "cancelling",
                "the cancel is recorded, but its node has not confirmed the end yet",
            );
            exit::LOST_OR_CANCELLED
        }
        Left::Closed => exit::BROKEN_PIPE,
    };
    follow.drain(sink).await;
    Ok(code.into())
}

/// The task as it ended. Its end was seen, so that this only outlives a cut.
async fn wait_for_end(server: &Server, id: TaskId) -> Result<Task, Failure> {
    server.client.wait(id).await.map_err(|error| server.failure(&error))
}

struct Follow<'a> {
    context: &'a Context,
    server: &'a Server,
    id: TaskId,
    grace: Duration,
    story: Story,
    /// Decided, but not yet handed to the sink.
    queue: VecDeque<Chunk>,
    /// A piece of output that waits for the phases before it.
    held: Option<(Piece, Instant)>,
    asked: FuturesUnordered<BoxFuture<'a, Answer>>,
    cuts: Cuts,
    /// A redrawn line stands on the screen.
    drawn: bool,
    /// The log's last byte on the terminal was a newline, or there was none.
    at_line_start: bool,
    attempt: u32,
    seen_bytes: u64,
    build_line: Vec<u8>,
    why_asked: Option<Instant>,
    still_told: Instant,
    log_seen: Instant,
    interrupts: Signal,
    terminations: Signal,
    key: Option<Key>,
    cancel_until: Option<Instant>,
    events_done: bool,
    log_done: bool,
}

impl<'a> Follow<'a> {
    fn new(context: &'a Context, server: &'a Server, task: Task, dockerfile: &str) -> Result<Self, Failure> {
        let now = Instant::now();
        let grace_ms = task.spec.as_ref().map_or(10_000, |spec| spec.stop.grace_ms);
        Ok(Self {
            context,
            server,
            id: task.id,
            grace: Duration::from_millis(grace_ms) + Duration::from_secs(10),
            story: Story::new(&task, dockerfile, context.out.people, now),
            queue: VecDeque::new(),
            held: None,
            asked: FuturesUnordered::new(),
            cuts: Cuts::default(),
            drawn: false,
            at_line_start: true,
            attempt: 0,
            seen_bytes: 0,
            build_line: Vec::new(),
            why_asked: None,
            still_told: now,
            log_seen: now,
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
            key: None,
            cancel_until: None,
            events_done: false,
            log_done: false,
        })
    }

    fn out(&self) -> &'a crate::output::Output {
        &self.context.out
    }

    async fn until_end(
        &mut self,
        sink: &Sink,
        events: &mut (impl Stream<Item = Result<Followed<api_types::event::TaskEvent>, ClientError>> + Unpin),
        log: &mut (impl Stream<Item = Result<Followed<LogItem>, ClientError>> + Unpin),
    ) -> Left {
        let mut tick = tokio::time::interval(Duration::from_millis(200));
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.events_done
                && (self.log_done || self.log_seen.elapsed() > LOG_GRACE)
                && self.queue.is_empty()
                && self.held.is_none()
            {
                break Left::Ended;
            }
            let asking = self.key.is_some();
            tokio::select! {
                _ = self.interrupts.recv() => if let Some(left) = self.interrupted() { break left; },
                _ = self.terminations.recv() => if self.cancel() { break Left::Unconfirmed; },
                key = pressed(&mut self.key) => {
                    self.key = None;
                    if self.answered(key) { break Left::Detached; }
                }
                () = sink.closed() => break Left::Closed,
                permit = sink.reserve(), if !self.queue.is_empty() => match permit {
                    Ok(permit) => if let Some(chunk) = self.queue.pop_front() { permit.send(chunk); },
                    Err(closed) => break closed.into(),
                },
                item = events.next(), if !self.events_done => match item {
                    Some(Ok(Followed::Event(event))) => self.on_event(&event),
                    // The log's connection is cut at the same moment, and tells.
                    Some(Ok(Followed::Disconnected { .. } | Followed::Resumed { .. })) => {}
                    Some(Err(error)) => break Left::Failed(error),
                    None => {
                        self.events_done = true;
                        self.log_seen = Instant::now();
                    }
                },
                item = log.next(), if !self.log_done && !asking && self.queue.is_empty() && self.held.is_none() => match item {
                    Some(Ok(item)) => self.on_log(item),
                    Some(Err(error)) => break Left::Failed(error),
                    None => self.log_done = true,
                },
                Some(answer) = self.asked.next(), if !self.asked.is_empty() => self.on_answer(answer),
                _ = tick.tick() => {}
            }
            if self.cancel_until.is_some_and(|until| Instant::now() > until) {
                break Left::Unconfirmed;
            }
            self.go_on(asking);
        }
    }

    /// What time and the last step have made due.
    fn go_on(&mut self, asking: bool) {
        let now = Instant::now();
        let lines = self.story.due(now);
        if self.out().progress != Progress::Off {
            for line in lines {
                self.line(&line);
            }
        }
        if let Some(text) = self.cuts.tell(self.seen_bytes)
            && self.out().stderr_is_terminal
        {
            self.say(Glyph::Warning, "waiting", &text);
        }
        if let Some((piece, since)) = self.held.take() {
            if !self.gates() || self.story.is_settled(piece.attempt) || since.elapsed() > GATE {
                self.write(&piece);
            } else {
                self.held = Some((piece, since));
            }
        }
        if asking || !self.queue.is_empty() {
            return;
        }
        match self.out().progress {
            Progress::Live => self.draw(now),
            Progress::Plain | Progress::Build if self.out().accessible => {
                if now.duration_since(self.still_told) >= STILL_EVERY {
                    self.still_told = now;
                    if let Some(line) = self.story.still(now) {
                        self.line(&line);
                    }
                }
            }
            Progress::Plain | Progress::Build | Progress::Off => {}
        }
    }

    /// Lines of ours stand between the task's, so their order counts.
    fn gates(&self) -> bool {
        self.out().progress != Progress::Off
    }

    fn draw(&mut self, now: Instant) {
        match self.story.status(now) {
            Some(line) => {
                self.ask_why(now);
                self.out().redraw(&line);
                self.drawn = true;
            }
            None => self.erase(),
        }
    }

    fn erase(&mut self) {
        if std::mem::take(&mut self.drawn) {
            self.out().redraw("");
        }
    }

    /// While it waits: the reason, fetched anew every 5 s.
    fn ask_why(&mut self, now: Instant) {
        let due = self.why_asked.is_none_or(|asked| now.duration_since(asked) >= Duration::from_secs(5));
        if self.story.is_waiting() && due {
            self.why_asked = Some(now);
            let (client, id) = (self.server.client.clone().with_pauses([]), self.id);
            self.asked.push(async move { Answer::Why(client.why(id).await) }.boxed());
        }
    }

    fn ask_task(&self, answer: impl FnOnce(Result<Task, ClientError>) -> Answer + Send + 'static) {
        let (client, id) = (self.server.client.clone(), self.id);
        self.asked.push(async move { answer(client.task(id).await) }.boxed());
    }

    fn on_event(&mut self, event: &api_types::event::TaskEvent) {
        match self.story.on_event(event, Instant::now()) {
            Want::Nothing => {}
            Want::Task if self.out().progress == Progress::Off => {}
            Want::Task => self.ask_task(Answer::Task),
            Want::AnotherAttempt(number) => self.ask_task(move |task| Answer::Attempt(number, task)),
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Task(Ok(task)) => self.story.on_task(&task),
            Answer::Attempt(number, task) => {
                let task = task.ok();
                if let Some(task) = &task {
                    self.story.on_task(task);
                }
                let rest = phases::another_attempt(number, task.as_ref(), self.seen_bytes);
                self.say(Glyph::Warning, &format!("attempt {number}"), &rest);
            }
            Answer::Why(Ok(why)) => self.story.on_why(&why.summary),
            Answer::Cancelled(Err(error)) if !error.is_problem("already-ended") => {
                self.cancel_until = None;
                self.say(Glyph::Failed, "cancel", &format!("it was not cancelled: {}", clean(&error.to_string())));
            }
            // A line less on the screen; the next one comes.
            Answer::Task(Err(_)) | Answer::Why(Err(_)) | Answer::Cancelled(_) => {}
        }
    }

    fn on_log(&mut self, item: Followed<LogItem>) {
        self.log_seen = Instant::now();
        match item {
            Followed::Event(LogItem::Piece(piece)) => self.on_piece(piece),
            Followed::Event(LogItem::Attempt(number)) => self.attempt = number,
            Followed::Event(LogItem::End(_)) => self.log_done = true,
            Followed::Disconnected { since, why } => self.cuts.lost(since, why),
            Followed::Resumed { after } => {
                if let Some(text) = self.cuts.back(after, self.seen_bytes)
                    && self.out().stderr_is_terminal
                {
                    self.say(Glyph::Done, "back", &text);
                }
            }
        }
    }

    fn on_piece(&mut self, piece: Piece) {
        match piece.stream.as_str() {
            "build" => self.on_build(&piece.bytes),
            "system" if repeats_a_phase(&piece.bytes) => {}
            _ => self.held = Some((piece, Instant::now())),
        }
    }

    fn on_build(&mut self, bytes: &Bytes) {
        if self.out().progress == Progress::Build {
            self.erase();
            self.pass_on(bytes.clone());
            return;
        }
        for byte in bytes.iter() {
            if *byte == b'\n' {
                self.story.on_build_line(&String::from_utf8_lossy(&self.build_line));
                self.build_line.clear();
            } else if self.build_line.len() < 4_096 {
                self.build_line.push(*byte);
            }
        }
    }

    fn write(&mut self, piece: &Piece) {
        self.erase();
        if piece.attempt != self.attempt {
            self.attempt = piece.attempt;
            self.seen_bytes = 0;
        }
        if let Some(bytes) = piece.gap {
            let next = show_count(piece.offset + bytes);
            self.say(
                Glyph::Warning,
                "gap",
                &format!("{} are missing here; the log goes on at byte {next}", plural(bytes, "byte")),
            );
        }
        let bytes = piece.bytes.clone();
        if bytes.is_empty() {
            return;
        }
        match piece.stream.as_str() {
            "system" => {
                if self.out().stderr_is_terminal {
                    for line in crate::text::clean_lines(&String::from_utf8_lossy(&bytes)) {
                        self.line(&self.out().people.paint(crate::style::Tone::Faint, &format!("  {line}")));
                    }
                }
            }
            "stdout" if !self.out().is_json() => {
                self.seen_bytes += bytes.len() as u64;
                if self.out().stdout_is_terminal {
                    self.at_line_start = bytes.ends_with(b"\n");
                }
                self.queue.push_back(Chunk::Out(bytes));
            }
            // With -o json, stdout is for the one object.
            _ => {
                self.seen_bytes += bytes.len() as u64;
                self.pass_on(bytes);
            }
        }
    }

    /// Bytes of others to stderr.
    fn pass_on(&mut self, bytes: Bytes) {
        if self.out().stderr_is_terminal {
            self.at_line_start = bytes.ends_with(b"\n");
        }
        self.queue.push_back(Chunk::Err(bytes));
    }

    /// A line of ours, at column 0 and in no colour of the task's.
    fn line(&mut self, line: &str) {
        self.erase();
        let mut text = String::new();
        if self.out().stderr_is_terminal {
            text += "\x1b[0m";
            if !std::mem::replace(&mut self.at_line_start, true) {
                text += "\n";
            }
            if !self.out().people.colour {
                text = text.replace("\x1b[0m", "");
            }
        }
        self.queue.push_back(Chunk::Err((text + line + "\n").into()));
    }

    fn say(&mut self, glyph: Glyph, word: &str, rest: &str) {
        let line = if self.out().stderr_is_terminal {
            self.out().people.phase(glyph, word, rest)
        } else {
            format!("unidesk: {word}: {rest}")
        };
        self.line(&line);
    }

    /// Ctrl-C. Some: leave.
    fn interrupted(&mut self) -> Option<Left> {
        if self.key.is_some() || self.cancel_until.is_some() || !self.out().can_ask() {
            self.key = None;
            return self.cancel().then_some(Left::Unconfirmed);
        }
        self.line("c cancel, d detach, Enter go on");
        self.key = Some(Key::read());
        None
    }

    /// The answer to the question. True: leave.
    fn answered(&mut self, key: Option<u8>) -> bool {
        match key {
            Some(b'c' | b'C') => {
                self.cancel();
            }
            Some(b'd' | b'D') => {
                self.line(&format!("  the task goes on: unidesk logs {} --follow", self.id.short()));
                return true;
            }
            _ => {}
        }
        false
    }

    /// Asks for the task's end. True: that was asked before, so do not wait any longer.
    fn cancel(&mut self) -> bool {
        if self.cancel_until.is_some() {
            return true;
        }
        self.cancel_until = Some(Instant::now() + self.grace);
        let (client, id) = (self.server.client.clone(), self.id);
        self.asked.push(async move { Answer::Cancelled(client.cancel(id).await) }.boxed());
        if self.out().stderr_is_terminal {
            self.say(Glyph::Warning, "cancelling", "its node stops it now (Ctrl-C: do not wait for that)");
        }
        false
    }

    fn tell_end(&mut self, task: &Task) {
        self.erase();
        let out = self.out();
        if out.is_json() {
            self.queue.push_back(Chunk::Out((json_line(task) + "\n").into()));
            return;
        }
        let failed = exit::of_task(task) != exit::DONE;
        let ending = result::ending(task);
        if out.stderr_is_terminal {
            self.line(ending.for_people(&out.people).trim_end());
        } else if failed {
            for line in ending.for_programs() {
                self.line(&line);
            }
        } else if out.progress != Progress::Off {
            self.line(ending.for_people(&out.people).trim_end());
        }
        if !self.log_done {
            self.line(&format!("  the end of its log has not arrived yet: unidesk logs {}", task.id.short()));
        }
    }

    /// Writes what is left. A second signal leaves it unwritten.
    async fn drain(&mut self, sink: Sink) {
        let queue = std::mem::take(&mut self.queue);
        let write = async {
            for chunk in queue {
                sink.send(chunk).await?;
            }
            sink.finish().await
        };
        tokio::select! {
            // Closed or not, nobody is left to tell.
            _ = write => {}
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }
}

/// The key, once one is pressed; never, while nobody was asked.
async fn pressed(key: &mut Option<Key>) -> Option<u8> {
    match key {
        Some(key) => (&mut key.pressed).await.ok(),
        None => std::future::pending().await,
    }
}

/// Notes of the agent about what the phases tell better.
fn repeats_a_phase(line: &[u8]) -> bool {
    line.starts_with(b"source ") || line.starts_with(b"image ")
}
