//! Runs many seeds: finds one that fails, and the first seed that catches each planted bug.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    thread,
    time::{Duration, Instant},
};

use serde::Serialize;
use shared::planted::Bug;

use crate::{Run, RunResult, plan::Kind, run};

/// Every planted bug must be caught within this many seeds.
pub const MAX_SEEDS_PER_BUG: u64 = 20_000;

/// The result of many seeds.
#[derive(Clone, Debug, Serialize)]
pub struct SeedRuns {
    /// Number of seeds that ran.
    pub seeds: u64,
    /// Duration in seconds.
    pub seconds: f64,
    /// The lowest seed that failed, and the check that failed.
    pub failure: Option<(u64, String)>,
}

/// Runs seeds from `first` upwards until one fails, on one thread per processor. Every seed that
/// was started runs to its end, so the result does not depend on the number of threads.
pub fn run_seeds(first: u64, seeds: u64, world: Option<Kind>, bug: Option<Bug>) -> SeedRuns {
    run_seeds_counting(first, seeds, world, bug, &AtomicU64::new(0))
}

/// Like [`run_seeds`]. `done` counts the finished seeds meanwhile.
pub fn run_seeds_counting(
    first: u64,
    seeds: u64,
    world: Option<Kind>,
    bug: Option<Bug>,
    done: &AtomicU64,
) -> SeedRuns {
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
            if let RunResult { violation: Some(violation), .. } = ran {
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
    SeedRuns { seeds: run, seconds: began.elapsed().as_secs_f64(), failure }
}

impl SeedRuns {
    /// The average rate.
    pub fn seeds_per_second(&self) -> f64 {
        self.seeds as f64 / self.seconds.max(Duration::from_millis(1).as_secs_f64())
    }
}

/// One line of the table of planted bugs.
#[derive(Clone, Debug, Serialize)]
pub struct Caught {
    /// The bug's name.
    pub bug: String,
    /// Number of seeds up to and including the one that caught it. `None`: no seed caught it.
    pub seeds: Option<u64>,
    /// The check that caught it.
    pub violation: Option<String>,
}

/// Finds the first of at most `most` seeds that catches a planted bug.
pub fn catch(bug: Bug, most: u64) -> Caught {
    let failure = run_seeds(0, most, None, Some(bug)).failure;
    let (seed, violation) = failure.unzip();
    Caught { bug: format!("{bug:?}"), seeds: seed.map(|seed| seed + 1), violation }
}
