//! `simulate`: runs the functions in simulated worlds with faults. See `--help`.

use std::{
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use clap::Parser;
use harness::progress::Ticker;
use serde_json::json;
use shared::planted::Bug;
use simulation::{
    Run,
    plan::Kind,
    run,
    search::{MAX_SEEDS_PER_BUG, catch, run_seeds_counting},
};

/// Runs the functions of Posthaste in simulated worlds and checks that no webhook is lost. A seed
/// determines each world.
///
/// --seed replays one seed and prints its trace. --seeds runs many seeds and stops at the first
/// failure. --bugs plants bugs and prints how many seeds it takes to catch each.
#[derive(Debug, Parser)]
#[command(
    name = "simulate",
    version,
    after_help = "Exit codes: 0 every check passed (--bugs: every bug was caught), 1 a check \
        failed (--bugs: a bug was not caught), 2 invalid usage."
)]
struct Options {
    /// Replay this seed and print its trace: time in seconds, actor, event.
    #[arg(long, conflicts_with_all = ["seeds", "bugs"])]
    seed: Option<u64>,
    /// Run this many seeds [default: 1000].
    #[arg(long, conflicts_with = "bugs")]
    seeds: Option<u64>,
    /// First seed of --seeds.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Plant each bug in turn and print the number of seeds that it takes to catch it.
    #[arg(long)]
    bugs: bool,
    /// Kind of world, instead of the seed's own: calm, deaths, storefaults, storeoutage,
    /// queuefaults, tickfaults, skew, stalls, flaps, operators, backlog, crashing, versions,
    /// clocks, limited, throttled, sharedhosts, fanout, onoff, tenants, everything.
    #[arg(long, value_parser = kind)]
    world: Option<Kind>,
    /// Plant this bug. --bugs prints the names.
    #[arg(long, value_parser = bug)]
    bug: Option<Bug>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

fn kind(name: &str) -> Result<Kind, String> {
    Kind::from_name(name)
        .ok_or_else(|| format!("is not one of {}", Kind::ALL.map(Kind::name).join(", ")))
}

fn bug(name: &str) -> Result<Bug, String> {
    Bug::from_name(name).ok_or_else(|| {
        format!("is not one of {}", Bug::ALL.map(|bug| format!("{bug:?}")).join(", "))
    })
}

fn main() -> ExitCode {
    let options = Options::parse();
    let passed = match (options.seed, options.bugs) {
        (Some(seed), _) => replay(&options, seed),
        (None, true) => bugs(&options),
        (None, false) => many(&options),
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(options: &Options, seed: u64) -> bool {
    let ran = run(Run { seed, world: options.world, bug: options.bug, traced: true });
    if options.json {
        shared::say!("{:#}", json!({"seed": seed, "violation": ran.violation, "trace": ran.trace}));
        return ran.violation.is_none();
    }
    for line in &ran.trace {
        shared::say!("{line}");
    }
    let (accepted, requests, messages, seconds) =
        (ran.accepted, ran.requests, ran.messages, ran.seconds);
    shared::say!(
        "\n{accepted} webhooks accepted, {requests} requests, {messages} messages, {seconds} s of \
         virtual time"
    );
    match &ran.violation {
        Some(violation) => shared::say!("FAILED: {violation}"),
        None => shared::say!("All checks passed."),
    }
    ran.violation.is_none()
}

fn many(options: &Options) -> bool {
    let seeds = options.seeds.unwrap_or(1000);
    let done = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&done);
    let ticker = Ticker::start("simulate", "seeds", seeds, move || counted.load(Relaxed));
    let ran = run_seeds_counting(options.from, seeds, options.world, options.bug, &done);
    drop(ticker);
    if options.json {
        shared::say!("{:#}", json!(ran));
        return ran.failure.is_none();
    }
    shared::say!(
        "{} seeds in {:.1} s ({:.0} per second)",
        ran.seeds,
        ran.seconds,
        ran.seeds_per_second()
    );
    if let Some((seed, violation)) = &ran.failure {
        let world =
            options.world.map_or_else(String::new, |world| format!(" --world {}", world.name()));
        let bug = options.bug.map_or_else(String::new, |bug| format!(" --bug {bug:?}"));
        shared::say!(
            "seed {seed} failed: {violation}\nreplay it with: simulate --seed {seed}{world}{bug}"
        );
    }
    ran.failure.is_none()
}

fn bugs(options: &Options) -> bool {
    let mut table = Vec::new();
    for bug in Bug::ALL.into_iter().filter(|bug| options.bug.is_none_or(|only| only == *bug)) {
        if options.json {
            shared::complain!("simulate: {bug:?}");
        }
        let caught = catch(bug, MAX_SEEDS_PER_BUG);
        if !options.json {
            let seeds = caught.seeds.map_or_else(|| "never".to_owned(), |seeds| seeds.to_string());
            shared::say!(
                "{:<24} {seeds:>6}  {}",
                caught.bug,
                caught.violation.as_deref().unwrap_or("not caught")
            );
        }
        table.push(caught);
    }
    if options.json {
        shared::say!("{:#}", json!(table));
    }
    table.iter().all(|caught| caught.seeds.is_some())
}
