//! Carries out the kills on a platform that goes on working: one process dies, the next one is aimed at while it comes up again.

use crate::{
    program::Program,
    sweep::{
        plan::{Kind, Strike},
        trap::Trap,
    },
    wait::until,
    world::World,
};
use anyhow::Context as _;
use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};
use tokio::time::sleep;

/// A victim that does not make the call within this is let go.
const PATIENCE: Duration = Duration::from_secs(2);
/// Whoever was started is ready within this, also on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(60);
const STEP: Duration = Duration::from_millis(15);

/// A program of the platform that can be started again.
type Who = (Kind, u8);

/// What became of a kill that was meant.
pub(super) enum Outcome {
    /// Dead, at this call.
    Killed(String),
    Spared,
}

pub(super) struct Field {
    pub(super) world: World,
    /// Started again, and since when it was gone.
    starting: Vec<(Who, Instant, String)>,
    /// Dead, and meant to be killed again on its way up.
    fallen: Option<(Who, Instant)>,
    /// The longest time from a death until its replacement was ready, and the kill.
    pub(super) slowest: BTreeMap<Kind, (Duration, String)>,
    /// What no kill explains.
    pub(super) broken: Vec<String>,
}

impl Field {
    pub(super) fn new(world: World) -> Self {
        Self { world, starting: Vec::new(), fallen: None, slowest: BTreeMap::new(), broken: Vec::new() }
    }

    /// `again`: the victim is the next one's too, so that it is not started here.
    ///
    /// Errors: the platform did not come up again, or could not be looked at.
    pub(super) async fn strike(&mut self, strike: &Strike, again: bool) -> anyhow::Result<Outcome> {
        let outcome = match strike.kind {
            Kind::Postgres => self.strike_postgres(strike).await,
            Kind::Supervisor => self.strike_supervisor(strike).await,
            _ if strike.from_birth => self.strike_from_birth(strike, again).await,
            _ => self.strike_at_work(strike, again).await,
        };
        outcome.with_context(|| strike.to_string())
    }

    async fn strike_at_work(&mut self, strike: &Strike, again: bool) -> anyhow::Result<Outcome> {
        let who = self.chosen(strike);
        self.until_up(Some(who)).await?;
        let pid = self.program(who)?.pid();
        let mut trap = Trap::on(&[pid], strike, &self.world.dir, &self.world.logs)?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !trap.is_over() && !self.program(who)?.has_ended() {
            self.look(Some(who))?;
            sleep(STEP).await;
        }
        self.verdict(who, strike, trap, again).await
    }

    async fn strike_from_birth(&mut self, strike: &Strike, again: bool) -> anyhow::Result<Outcome> {
        let (who, since) = match self.fallen.take() {
            Some(fallen) => fallen,
            // The first of a stretch, or the kill before it has spared its victim.
            None => {
                let who = self.chosen(strike);
                self.until_up(Some(who)).await?;
                self.program(who)?.kill().await?;
                (who, Instant::now())
            }
        };
        let (trap, before) = Trap::before(strike, &self.world.dir)?;
        self.start(who, &before, since, strike)?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE && !self.program(who)?.has_ended() {
            self.look(Some(who))?;
            sleep(STEP).await;
        }
        self.verdict(who, strike, trap, again).await
    }

    /// Dead or let go; what is dead by the trap is started again.
    async fn verdict(&mut self, who: Who, strike: &Strike, trap: Trap, again: bool) -> anyhow::Result<Outcome> {
        let pid = self.program(who)?.pid();
        let sprung = trap.sprung();
        // Until it is gone the victim may make its call after all.
        if sprung.is_none() && !self.program(who)?.has_ended() {
            trap.take_away(pid).await?;
            if !self.program(who)?.has_ended() {
                return Ok(Outcome::Spared);
            }
            return self.buried(who, strike, "as the trap was taken away".into(), again);
        }
        let (_, _) =
            until("the victim is dead", UP_WITHIN, async || self.program(who).ok()?.has_ended().then_some(())).await?;
        match sprung.or_else(|| trap.sprung()) {
            Some(call) => {
                trap.take_away(0).await?;
                self.buried(who, strike, call, again)
            }
            None => {
                let words = last_words(self.program(who)?);
                self.broken.push(format!("{strike}: it ended by itself: {words}"));
                self.buried(who, strike, "by itself".into(), false)
            }
        }
    }

    fn buried(&mut self, who: Who, strike: &Strike, call: String, again: bool) -> anyhow::Result<Outcome> {
        // Gone since its first death, where it was killed on its way up.
        let since = self.starting.iter().find(|(starting, ..)| *starting == who).map(|(_, since, _)| *since);
        let since = since.unwrap_or_else(Instant::now);
        self.starting.retain(|(starting, ..)| *starting != who);
        if again {
            self.fallen = Some((who, since));
        } else {
            self.start(who, &[], since, strike)?;
        }
        Ok(Outcome::Killed(call))
    }

    /// Which of several: of schedulers the first is the one that leads.
    fn chosen(&self, strike: &Strike) -> Who {
        let which = match (strike.kind, self.world.leads_now()) {
            (Kind::Scheduler, Some(leader)) => (leader as u8 + strike.which) % 2,
            _ => strike.which,
        };
        (strike.kind, which)
    }

    async fn strike_postgres(&mut self, strike: &Strike) -> anyhow::Result<Outcome> {
        self.until_up(None).await?;
        // Not its first process, which sees to the others: it would be another fault, that of the whole.
        let pids = self.world.database.pids();
        let (_, servers) = pids.split_last().context("PostgreSQL does not run")?;
        let mut trap = Trap::on(servers, strike, &self.world.dir, &self.world.logs)?;
        let began = Instant::now();
        while began.elapsed() < PATIENCE && trap.sprung().is_none() && !trap.is_over() {
            self.look(None)?;
            sleep(STEP).await;
        }
        let Some(call) = trap.sprung() else {
            trap.take_away(0).await?;
            return Ok(Outcome::Spared);
        };
        let died = Instant::now();
        let whole = strike.number.is_multiple_of(2);
        if whole {
            self.world.database.kill().await?;
        }
        trap.take_away(0).await?;
        if whole {
            self.world.database.start().await?;
        }
        let database = &self.world.database;
        until("PostgreSQL answers", UP_WITHIN, async || database.sql("SELECT 1").ok().map(drop)).await?;
        self.recovered(Kind::Postgres, died.elapsed(), strike.to_string());
        Ok(Outcome::Killed(if whole { format!("{call}, and all the others with it") } else { call }))
    }

    /// Nobody starts it again: its task goes to the next attempt.
    async fn strike_supervisor(&mut self, strike: &Strike) -> anyhow::Result<Outcome> {
        let began = Instant::now();
        let found = loop {
            self.look(None)?;
            let mut all: Vec<i32> = self.world.nodes.iter().flat_map(|node| node.net.pids()).collect();
            all.retain(|pid| comm(*pid).starts_with("unidesk-shim"));
            if let Some(pid) = all.get(strike.number as usize % all.len().max(1)) {
                break *pid;
            }
            if began.elapsed() > PATIENCE {
                return Ok(Outcome::Spared);
            }
            sleep(STEP).await;
        };
        let mut trap = Trap::on(&[found], strike, &self.world.dir, &self.world.logs)?;
        while began.elapsed() < 2 * PATIENCE && !trap.is_over() {
            self.look(None)?;
            sleep(STEP).await;
        }
        let sprung = trap.sprung();
        trap.take_away(0).await?;
        Ok(sprung.map_or(Outcome::Spared, Outcome::Killed))
    }

    /// Waits until this one is ready, or all are.
    pub(super) async fn until_up(&mut self, who: Option<Who>) -> anyhow::Result<()> {
        let began = Instant::now();
        loop {
            self.look(None)?;
            let mut waiting = self.starting.iter().filter(|(starting, ..)| who.is_none_or(|who| who == *starting));
            let Some(((kind, which), ..)) = waiting.next() else { return Ok(()) };
            anyhow::ensure!(began.elapsed() < UP_WITHIN, "{} {which} is not ready after {UP_WITHIN:?}", kind.name());
            sleep(STEP).await;
        }
    }

    /// Who has come up, and who died without having been killed. Nothing is said of the one that is `armed`.
    fn look(&mut self, armed: Option<Who>) -> anyhow::Result<()> {
        for who in self.everybody() {
            if Some(who) == armed || self.fallen.is_some_and(|(fallen, _)| fallen == who) {
                continue;
            }
            let program = self.program(who)?;
            if program.has_ended() {
                let said = format!("{} ended by itself: {}", program.name, last_words(program));
                self.broken.push(said.clone());
                self.starting.retain(|(starting, ..)| *starting != who);
                self.launch(who, &[])?;
                self.starting.push((who, Instant::now(), said));
                anyhow::ensure!(self.broken.len() < 10, "too much ends by itself: {}", self.broken.join("; "));
            }
        }
        for (who, since, why) in std::mem::take(&mut self.starting) {
            if self.program(who)?.said().contains("ready ") {
                self.recovered(who.0, since.elapsed(), why);
            } else {
                self.starting.push((who, since, why));
            }
        }
        Ok(())
    }

    fn recovered(&mut self, kind: Kind, took: Duration, kill: String) {
        let slowest = self.slowest.entry(kind).or_default();
        if took > slowest.0 {
            *slowest = (took, kill);
        }
    }

    fn everybody(&self) -> Vec<Who> {
        let pairs = [Kind::Gateway, Kind::Scheduler, Kind::Agent].into_iter().flat_map(|kind| [(kind, 0), (kind, 1)]);
        pairs.chain([(Kind::Registry, 0)]).collect()
    }

    fn program(&mut self, (kind, which): Who) -> anyhow::Result<&mut Program> {
        let which = usize::from(which);
        match kind {
            Kind::Gateway => self.world.gateway(which),
            Kind::Agent => self.world.nodes[which].agent(),
            Kind::Scheduler => self.world.scheduler(which),
            Kind::Registry => self.world.registry.as_mut().context("the registry does not run"),
            Kind::Postgres | Kind::Supervisor => anyhow::bail!("{} is not started by itself", kind.name()),
        }
    }

    fn start(&mut self, who: Who, before: &[String], since: Instant, strike: &Strike) -> anyhow::Result<()> {
        self.launch(who, before)?;
        self.starting.push((who, since, strike.to_string()));
        Ok(())
    }

    fn launch(&mut self, (kind, which): Who, before: &[String]) -> anyhow::Result<()> {
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let (world, at) = (&mut self.world, usize::from(which));
        let program = |name: &str, command| Program::spawn(name, command, &world.logs).map(Some);
        match kind {
            Kind::Gateway => {
                world.gateways[at] = program(&format!("gateway-{at}"), world.gateway_command(at, &before)?)?;
            }
            Kind::Scheduler => {
                world.schedulers[at] = program(&format!("scheduler-{at}"), world.scheduler_command(&before)?)?;
            }
            Kind::Registry => world.registry = program("registry", world.registry_command(&before)?)?,
            Kind::Agent => {
                let (name, command) = (world.nodes[at].name.clone(), world.nodes[at].command(&before)?);
                world.nodes[at].agent = program(&name, command)?;
            }
            Kind::Postgres | Kind::Supervisor => anyhow::bail!("{} is not started by itself", kind.name()),
        }
        Ok(())
    }
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

fn last_words(program: &Program) -> String {
    let said = program.said();
    let lines: Vec<&str> = said.lines().rev().take(5).collect();
    lines.into_iter().rev().collect::<Vec<_>>().join(" | ")
}
