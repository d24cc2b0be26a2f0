//! Many seeds: in search of one that fails, and of how soon each planted bug is caught.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use shared::planted::Bug;

use super::{Ran, Run, plan::Kind, run};

/// Seeds within which each bug has to be caught.
pub const MAX_SEEDS_PER_BUG: u64 = 20_000;

/// What came of many seeds.
#[derive(Clone, Debug, Serialize)]
pub struct Hunted {
    /// Seeds that were run.
    pub seeds: u64,
    /// How long it took.
    pub seconds: f64,
    /// The lowest seed that failed, and how.
    pub failure: Option<(u64, String)>,
}

/// Runs seeds from `first` on until one fails, on as many threads as there are processors: those of
/// a batch that were begun are all finished, so the answer is the lowest seed, whatever the number
/// of threads.
pub fn hunt(first: u64, seeds: u64, world: Option<Kind>, bug: Option<Bug>) -> Hunted {
    hunt_counting(first, seeds, world, bug, &AtomicU64::new(0))
}

/// The same, and `done` counts the seeds that were run, while they are.
pub fn hunt_counting(
    first: u64,
    seeds: u64,
    world: Option<Kind>,
    bug: Option<Bug>,
    done: &AtomicU64,
) -> Hunted {
    let began = Instant::now();
    let next = AtomicU64::new(0);
    let worst = AtomicU64::new(u64::MAX);
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let search = || {
        let mut found: Option<(u64, String)> = None;
        loop {
            let index = next.fetch_add(1, Relaxed);
            if index >= seeds || index > worst.load(Relaxed) {
                return found;
            }
            let seed = first.wrapping_add(index);
            let ran = run(Run { seed, world, bug, traced: false });
            done.fetch_add(1, Relaxed);
            if let Ran { violation: Some(violation), .. } = ran {
                worst.fetch_min(index, Relaxed);
                found.get_or_insert((seed, violation));
            }
        }
    };
    let failure = thread::scope(|scope| {
        let searches: Vec<_> = (0..threads).map(|_| scope.spawn(search)).collect();
        let found = searches.into_iter().filter_map(|search| {
            search.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        found.min()
    });
    let run = next.load(Relaxed).min(seeds);
    Hunted { seeds: run, seconds: began.elapsed().as_secs_f64(), failure }
}

impl Hunted {
    /// How fast it went.
    pub fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.seconds.max(Duration::from_millis(1).as_secs_f64())
    }
}

/// One line of the table of planted bugs.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// The bug's name.
    pub bug: String,
    /// Seeds until it was caught, that one included; `None`: it was not.
    pub seeds: Option<u64>,
    /// By which check.
    pub violation: Option<String>,
}

/// How soon a planted bug is caught.
pub fn catch(bug: Bug, most: u64) -> Caught {
    let failure = hunt(0, most, None, Some(bug)).failure;
    let (seed, violation) = failure.unzip();
    Caught { bug: format!("{bug:?}"), seeds: seed.map(|seed| seed + 1), violation }
}
