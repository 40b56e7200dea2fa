//! Follows a task to its end: events, log and signals at once, and every byte of ours in its place between the task's own.

mod log;
mod screen;
mod stop;

use self::{screen::Screen, stop::pressed};
use super::{
    Args,
    story::{Story, Want},
};
use crate::{
    context::{Context, Server},
    cuts::Cuts,
    exit,
    failure::Failure,
    output::{Progress, json_line, local_now},
    render::{phases, result},
    sink::{Closed, Sink},
    style::Glyph,
    terminal::Key,
    text::clean,
};
use api_types::{log::LogQuery, task::Task, why::Why};
use client::{ClientError, Followed, LogItem, Piece};
use domain::ids::TaskId;
use futures::{FutureExt, Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// Output that arrives before the events that explain it waits at most so long for them.
const GATE: Duration = Duration::from_millis(1_500);
/// How long the rest of a log may take once the task has ended.
const LOG_GRACE: Duration = Duration::from_secs(15);
/// A log that is silent for so long may be that of a node that is away: nothing else would tell.
const SILENCE: Duration = Duration::from_secs(10);
const STILL_EVERY: Duration = Duration::from_secs(30);

/// What was asked in the background, and its answer.
enum Answer {
    Task(Result<Task, ClientError>),
    /// The task, fetched to see whether its node is there.
    Condition(Result<Task, ClientError>),
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
    let streams =
        if follow.screen.out.progress == Progress::Off { "stdout,stderr" } else { "stdout,stderr,build,system" };
    let query = LogQuery { stream: Some(streams.into()), ..LogQuery::default() };
    let mut events = std::pin::pin!(server.client.follow_events(id));
    let mut log = std::pin::pin!(server.client.follow_log(id, &query));
    let sink = Sink::start();
    let code = match follow.until_end(&sink, &mut events, &mut log).await {
        Left::Failed(error) => {
            follow.screen.erase();
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
            follow.screen.say(
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
    server: &'a Server,
    id: TaskId,
    grace: Duration,
    story: Story,
    screen: Screen<'a>,
    /// A piece of output that waits for the phases before it.
    held: Option<(Piece, Instant)>,
    asked: FuturesUnordered<BoxFuture<'a, Answer>>,
    cuts: Cuts,
    attempt: u32,
    seen_bytes: u64,
    build_line: Vec<u8>,
    why_asked: Option<Instant>,
    still_told: Instant,
    log_seen: Instant,
    condition_asked: Instant,
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
            server,
            id: task.id,
            grace: Duration::from_millis(grace_ms) + Duration::from_secs(10),
            story: Story::new(&task, dockerfile, context.out.people, now),
            screen: Screen::new(&context.out),
            held: None,
            asked: FuturesUnordered::new(),
            cuts: Cuts::default(),
            attempt: 0,
            seen_bytes: 0,
            build_line: Vec::new(),
            why_asked: None,
            still_told: now,
            log_seen: now,
            condition_asked: now,
            interrupts: signal(SignalKind::interrupt())?,
            terminations: signal(SignalKind::terminate())?,
            key: None,
            cancel_until: None,
            events_done: false,
            log_done: false,
        })
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
                && self.screen.is_idle()
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
                permit = sink.reserve(), if !self.screen.is_idle() => match permit {
                    Ok(permit) => if let Some(chunk) = self.screen.next() { permit.send(chunk); },
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
                item = log.next(), if !self.log_done && !asking && self.screen.is_idle() && self.held.is_none() => match item {
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
        self.ask_condition(now);
        let lines = self.story.due(now);
        if self.screen.out.progress != Progress::Off {
            for line in lines {
                self.screen.line(&line);
            }
        }
        if let Some(text) = self.cuts.tell(self.seen_bytes)
            && self.screen.out.stderr_is_terminal
        {
            self.screen.say(Glyph::Warning, "waiting", &text);
        }
        if let Some((piece, since)) = self.held.take() {
            if !self.gates() || self.story.is_settled(piece.attempt) || since.elapsed() > GATE {
                self.write(&piece);
            } else {
                self.held = Some((piece, since));
            }
        }
        if asking || !self.screen.is_idle() {
            return;
        }
        match self.screen.out.progress {
            Progress::Live => self.draw(now),
            Progress::Plain | Progress::Build if self.screen.out.accessible => {
                if now.duration_since(self.still_told) >= STILL_EVERY {
                    self.still_told = now;
                    if let Some(line) = self.story.still(now) {
                        self.screen.line(&line);
                    }
                }
            }
            Progress::Plain | Progress::Build | Progress::Off => {}
        }
    }

    /// Lines of ours stand between the task's, so their order counts.
    fn gates(&self) -> bool {
        self.screen.out.progress != Progress::Off
    }

    fn draw(&mut self, now: Instant) {
        match self.story.status(now) {
            Some(line) => {
                self.ask_why(now);
                self.screen.draw(&line);
            }
            None => self.screen.erase(),
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

    /// While an attempt says nothing: whether its node is there.
    fn ask_condition(&mut self, now: Instant) {
        let is_silent = now.duration_since(self.log_seen.max(self.condition_asked)) >= SILENCE;
        if is_silent && !self.story.is_waiting() && !self.events_done && self.screen.out.progress != Progress::Off {
            self.condition_asked = now;
            let (client, id) = (self.server.client.clone().with_pauses([]), self.id);
            self.asked.push(async move { Answer::Condition(client.task(id).await) }.boxed());
        }
    }

    fn ask_task(&self, answer: impl FnOnce(Result<Task, ClientError>) -> Answer + Send + 'static) {
        let (client, id) = (self.server.client.clone(), self.id);
        self.asked.push(async move { answer(client.task(id).await) }.boxed());
    }

    fn on_event(&mut self, event: &api_types::event::TaskEvent) {
        match self.story.on_event(event, Instant::now()) {
            Want::Nothing => {}
            Want::Task if self.screen.out.progress == Progress::Off => {}
            Want::Task => self.ask_task(Answer::Task),
            Want::AnotherAttempt(number) => self.ask_task(move |task| Answer::Attempt(number, task)),
        }
    }

    fn on_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Task(Ok(task)) => self.story.on_task(&task),
            Answer::Condition(Ok(task)) => self.story.on_condition(&task, local_now()),
            Answer::Attempt(number, task) => {
                let task = task.ok();
                if let Some(task) = &task {
                    self.story.on_task(task);
                }
                let rest = phases::another_attempt(number, task.as_ref(), self.seen_bytes);
                self.screen.say(Glyph::Warning, &format!("attempt {number}"), &rest);
            }
            Answer::Why(Ok(why)) => self.story.on_why(&why.summary),
            Answer::Cancelled(Err(error)) if !error.is_problem("already-ended") => {
                self.cancel_until = None;
                self.screen.say(
                    Glyph::Failed,
                    "cancel",
                    &format!("it was not cancelled: {}", clean(&error.to_string())),
                );
            }
            // A line less on the screen; the next one comes.
            Answer::Task(Err(_)) | Answer::Condition(Err(_)) | Answer::Why(Err(_)) | Answer::Cancelled(_) => {}
        }
    }

    /// Writes what is left. A second signal leaves it unwritten.
    async fn drain(&mut self, sink: Sink) {
        tokio::select! {
            () = self.screen.drain(sink) => {}
            _ = self.interrupts.recv() => {}
            _ = self.terminations.recv() => {}
        }
    }

    fn tell_end(&mut self, task: &Task) {
        self.screen.erase();
        let out = self.screen.out;
        if out.is_json() {
            self.screen.data((json_line(task) + "\n").into());
            return;
        }
        let failed = exit::of_task(task) != exit::DONE;
        let ending = result::ending(task);
        if out.stderr_is_terminal {
            self.screen.line(ending.for_people(&out.people).trim_end());
        } else if failed {
            for line in ending.for_programs() {
                self.screen.line(&line);
            }
        } else if out.progress != Progress::Off {
            self.screen.line(ending.for_people(&out.people).trim_end());
        }
        if !self.log_done {
            self.screen.line(&format!("  the end of its log has not arrived yet: unidesk logs {}", task.id.short()));
        }
    }
}
