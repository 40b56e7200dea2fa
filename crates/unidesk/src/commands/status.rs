//! `unidesk status`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    ids,
    output::{Progress, local_now},
    render::{self, View},
};
use api_types::task::Task;
use client::Followed;
use domain::ids::TaskId;
use futures::StreamExt;
use std::{process::ExitCode, time::Duration};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Full id, its last 6 or more digits, or: last
    #[arg(add = clap_complete::ArgValueCompleter::new(crate::complete::tasks))]
    id: String,
    /// Keep looking until it has ended; Ctrl-C stops the looking only
    #[arg(long, short)]
    watch: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let id = ids::resolve(context, &server, &args.id).await?;
    let task = server.client.task(id).await.or_tell(&server)?;
    if args.watch && !task.state.is_terminal() {
        return watch(context, &server, task).await;
    }
    show(context, &task)?;
    Ok(DONE)
}

fn show(context: &Context, task: &Task) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(task);
    }
    context.out.data(&render::status::for_people(task, &view(context)))
}

fn view(context: &Context) -> View {
    View { style: context.out.style, width: context.out.width(), now: local_now() }
}

/// One screen that is drawn anew, and given back at the end. For programs: one object, or one text, a change.
async fn watch(context: &Context, server: &Server, task: Task) -> Result<ExitCode, Failure> {
    let out = &context.out;
    let full_screen = out.stdout_is_terminal && !out.is_json() && out.progress == Progress::Live;
    let screen = full_screen.then(|| Screen::enter(context)).transpose()?;
    let result = tokio::select! {
        result = follow(context, server, task, full_screen) => result,
        _ = tokio::signal::ctrl_c() => Ok(None),
    };
    drop(screen);
    match result? {
        Some(task) if full_screen => show(context, &task)?,
        Some(_) => {}
        None => out.hint("stopped looking; the task goes on"),
    }
    Ok(DONE)
}

async fn follow(
    context: &Context,
    server: &Server,
    mut task: Task,
    full_screen: bool,
) -> Result<Option<Task>, Failure> {
    let id: TaskId = task.id;
    let mut events = std::pin::pin!(server.client.follow_events(id));
    let mut redraw = tokio::time::interval(Duration::from_secs(1));
    let mut lost = None;
    draw(context, &task, full_screen, lost.as_deref())?;
    loop {
        tokio::select! {
            item = events.next() => match item {
                Some(Ok(Followed::Event(event))) => {
                    // The first events tell of what the task says already.
                    if event.state == task.state && !full_screen {
                        continue;
                    }
                    let before = std::mem::replace(&mut task, server.client.task(id).await.or_tell(server)?);
                    if full_screen || before != task {
                        draw(context, &task, full_screen, lost.as_deref())?;
                    }
                }
                Some(Ok(Followed::Disconnected { why, .. })) => lost = Some(why),
                Some(Ok(Followed::Resumed { .. })) => lost = None,
                Some(Err(error)) => return Err(server.failure(&error)),
                None => {
                    let ended = server.client.wait(id).await.or_tell(server)?;
                    if !full_screen && ended != task {
                        draw(context, &ended, false, None)?;
                    }
                    return Ok(Some(ended));
                }
            },
            _ = redraw.tick() => if full_screen {
                draw(context, &task, true, lost.as_deref())?;
            },
        }
    }
}

fn draw(context: &Context, task: &Task, full_screen: bool, lost: Option<&str>) -> Result<(), Failure> {
    if !full_screen {
        return show(context, task);
    }
    let mut text = render::status::for_people(task, &view(context)).replace('\n', "\x1b[K\r\n");
    if let Some(why) = lost {
        text += &format!("! connection lost ({}); trying again\x1b[K\r\n", crate::text::clean(why));
    }
    context.out.data(&format!("\x1b[H{text}\x1b[J"))
}

/// The terminal's second screen, for as long as this lives.
struct Screen<'a> {
    context: &'a Context,
}

impl<'a> Screen<'a> {
    fn enter(context: &'a Context) -> Result<Self, Failure> {
        context.out.data("\x1b[?1049h\x1b[?25l\x1b[H")?;
        Ok(Self { context })
    }
}

impl Drop for Screen<'_> {
    fn drop(&mut self) {
        // Nothing can be done when the terminal is gone.
        let _ = self.context.out.data("\x1b[?25h\x1b[?1049l");
    }
}
