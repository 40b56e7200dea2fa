//! `chaos`: breaks a platform of its own in every way there is, and says what was lost.

use anyhow::Context as _;
use chaos::{
    engine::{self, Sabotage},
    figures::{self, Figure, Origin, Scale},
    inside::{self, Place},
    report::Report,
    scenario::Scenario,
    scenarios, sweep, table,
    world::Run,
};
use clap::Parser;
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, UNIX_EPOCH},
};

#[derive(Debug, Parser)]
#[command(
    name = "chaos",
    about = "Faults on real processes, a real PostgreSQL, Docker and networks; fails when anything was lost."
)]
struct Args {
    /// Faults by their ids (F01 F13); all by default
    faults: Vec<String>,
    /// Name the faults and end
    #[arg(long)]
    list: bool,
    /// Keep the figures in this file: of faults a line of JSON each, in the place of those of earlier runs (not of runs with --sabotage);
    /// of a kill sweep one text
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Instead of faults: write the figures of --json between the marks of this document
    #[arg(long, value_name = "FILE", requires = "json")]
    table: Option<PathBuf>,
    /// From which commit the programs were built; what Git says of this directory by default
    #[arg(long)]
    commit: Option<String>,
    /// Do damage after each verdict and judge again: fails when that is not noticed
    #[arg(long, value_enum)]
    sabotage: Option<Sabotage>,
    /// Instead of faults: so many kills at system calls of the services and agents
    #[arg(long, value_name = "N")]
    kill_sweep: Option<u32>,
    /// Which kills: the same seed makes the same ones; by default a new one, which is printed
    #[arg(long, value_name = "N", requires = "kill_sweep")]
    seed: Option<u64>,
    /// The number of the first kill, to make a stretch of kills again
    #[arg(long, value_name = "N", default_value_t = 0, requires = "kill_sweep")]
    first: u32,
    /// End the sweep with the first audit after so many minutes
    #[arg(long, value_name = "N", requires = "kill_sweep")]
    minutes: Option<u64>,
    /// At the product's own times, not a tenth of them: for F06, F09 and F14, which wait for silence
    #[arg(long)]
    real_times: bool,
    /// Copy the logs of failed faults to this directory
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let args = Args::parse();
    let chosen = choose(&args.faults)?;
    if args.list {
        for scenario in chosen {
            println!("{:<5} {}", scenario.id, scenario.what);
        }
        return Ok(ExitCode::SUCCESS);
    }
    if let (Some(document), Some(json)) = (&args.table, &args.json) {
        let text = std::fs::read_to_string(document).with_context(|| format!("reading {}", document.display()))?;
        let text = table::written(&text, &scenarios::rows(), &figures::read(json)?)?;
        std::fs::write(document, text).with_context(|| format!("writing {}", document.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    let dir = match inside::enter().await? {
        Place::Outside(code) => return Ok(code),
        Place::Inside(dir) => dir,
    };
    tokio::select! {
        outcome = play(&args, &chosen, dir) => outcome,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    }
}

fn choose(faults: &[String]) -> anyhow::Result<Vec<Scenario>> {
    let mut all = scenarios::all();
    if let Some(unknown) = faults.iter().find(|id| !all.iter().any(|scenario| scenario.id == id.as_str())) {
        anyhow::bail!("there is no fault {unknown}; chaos --list names them");
    }
    all.retain(|scenario| faults.is_empty() || faults.iter().any(|id| id == scenario.id));
    Ok(all)
}

async fn play(args: &Args, chosen: &[Scenario], dir: PathBuf) -> anyhow::Result<ExitCode> {
    if args.real_times {
        chaos::world::use_real_times();
    }
    let origin = Origin {
        commit: args.commit.clone().unwrap_or_else(figures::commit),
        scale: if args.real_times { Scale::Real } else { Scale::Tenth },
    };
    let mut run = Run::start(&dir).await.context("preparing the run")?;
    if let Some(kills) = args.kill_sweep {
        return sweep(args, &mut run, kills).await;
    }
    let mut reports = Vec::new();
    println!("{}", Report::heading());
    for scenario in chosen {
        let report = engine::play(&mut run, scenario, args.sabotage)
            .await
            .with_context(|| format!("{} could not be played", scenario.id));
        let report = match report {
            Ok(report) => report,
            Err(error) => {
                keep(args, &run, scenario.id);
                Report::unplayed(scenario, &error)
            }
        };
        println!("{}", report.lines());
        record(args, &origin, &report)?;
        if !report.is_clean() {
            keep(args, &run, scenario.id);
        }
        reports.push(report);
    }
    run.docker.stop().await?;
    let failed = reports.iter().filter(|report| report.verdict() == "FAILED").count();
    let skipped = reports.iter().filter(|report| report.verdict() == "skipped").count();
    let accepted: u32 = reports.iter().map(|report| report.findings.accepted).sum();
    let lost: usize = reports.iter().map(|report| report.findings.lost.len()).sum();
    println!("{} faults, {failed} failed, {skipped} skipped; {accepted} tasks accepted, {lost} lost", reports.len());
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn sweep(args: &Args, run: &mut Run, kills: u32) -> anyhow::Result<ExitCode> {
    let new_seed = || UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis() as u64);
    let seed = args.seed.unwrap_or_else(new_seed);
    let within = args.minutes.map(|minutes| Duration::from_secs(60 * minutes));
    println!("{kills} kills from number {} on, seed {seed}", args.first);
    let options = sweep::Options { kills, seed, first: args.first, within, sabotage: args.sabotage };
    let tally = sweep::run(run, &options, |run, world| keep(args, run, world)).await?;
    run.docker.stop().await?;
    if let Some(file) = &args.json {
        std::fs::write(file, serde_json::to_string_pretty(&tally)? + "\n")
            .with_context(|| format!("writing {}", file.display()))?;
    }
    println!("{}", tally.summary());
    let is_well = tally.faults.is_empty() && tally.kills > 0;
    println!(
        "{} faults; {} kills, {} tasks accepted, {} lost",
        tally.faults.len(),
        tally.kills,
        tally.accepted,
        tally.lost
    );
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// At once, so that a run that is interrupted has measured what it has.
fn record(args: &Args, origin: &Origin, report: &Report) -> anyhow::Result<()> {
    match (&args.json, Figure::of(report, origin)) {
        (Some(file), Some(figure)) if args.sabotage.is_none() => figures::keep(file, figure),
        _ => Ok(()),
    }
}

fn keep(args: &Args, run: &Run, name: &str) {
    let Some(to) = &args.keep else { return };
    let from = run.dir.join(name);
    let _ = std::fs::create_dir_all(to.join(name));
    for part in ["logs", "ledger", "history.json"] {
        let copied =
            inside::run("cp", &["-r", &from.join(part).display().to_string(), &to.join(name).display().to_string()]);
        if let Err(error) = copied {
            eprintln!("{error:#}");
        }
    }
}
