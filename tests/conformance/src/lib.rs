//! The conformance suite: the guarantees of every [`Store`] and every [`Queue`], tested against
//! real backends.
//!
//! A case is a plain async function over a [`Fixture`]. Each area has a file, which lists its
//! cases. A case that is missing from the list is dead code and does not compile. A case's doc
//! comment states the guarantee, and then what the case does to check it.
//!
//! A backend is one line in its own test file, with `harness = false`:
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     conformance::run("sqlite", || async { Box::new(Sqlite::start()) as Box<dyn Backend> })
//! }
//! ```
//!
//! `cargo test` lists each case by name and can filter by it. If a backend does not start, its case
//! fails. A case cannot be skipped.
//!
//! | area | what it covers |
//! |---|---|
//! | `create`, `write`, `delete`, `tombstones` | conditional writes of a webhook and its content |
//! | `transitions` | every event on every status: record and indexes agree |
//! | `races` | real concurrent writers over two handles: one claim, one outcome, no resurrection |
//! | `due`, `audit`, `expiry`, `list`, `dead_letters` | the indexes |
//! | `reservations`, `targets`, `totals` | other state that outlives a process |
//! | `unreadable` | records of a newer version |
//! | `applications` | the documents of applications |
//! | `messages` | published messages, the keys of their deliveries, and both in the indexes |
//! | `queue`, `visibility`, `redrive`, `receivers` | the queue |
//!
//! The suite waits for a condition with a timeout and never sleeps for a fixed time. Cases run in
//! parallel. Each has its own backend.
//!
//! [`Store`]: shared::store::Store
//! [`Queue`]: shared::queue::Queue

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "the suite's functions are tests and fail by panicking"
)]

mod applications;
mod audit;
mod create;
mod dead_letters;
mod delete;
mod due;
mod expiry;
mod fixture;
mod list;
mod messages;
mod queue;
mod races;
mod receivers;
mod redrive;
mod reservations;
mod steps;
mod targets;
mod tombstones;
mod totals;
mod transitions;
mod unreadable;
mod visibility;
mod write;

use std::{future::Future, pin::Pin, process::ExitCode, sync::Arc, time::Duration};

use libtest_mimic::{Arguments, Trial};
use tokio::{runtime, time::timeout};

pub use fixture::{Backend, Fixture, TestClock};

/// The timeout of a case: 2 minutes, for a slow machine with a remote server. A case usually takes
/// less than a second.
const MAX_CASE: Duration = Duration::from_secs(120);

/// One guarantee of a backend.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// The area and the function's name.
    pub name: &'static str,
    /// Panics if the backend breaks the guarantee.
    pub run: fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// Lists an area's cases, each named after its function.
macro_rules! area {
    ($($function:ident),+ $(,)?) => {
        vec![$($crate::Case {
            name: concat!(module_path!(), "::", stringify!($function)),
            run: |fixture| Box::pin($function(fixture)),
        }),+]
    };
}
use area;

/// All cases.
pub fn cases() -> Vec<Case> {
    [
        create::cases(),
        write::cases(),
        delete::cases(),
        transitions::cases(),
        races::cases(),
        due::cases(),
        audit::cases(),
        expiry::cases(),
        list::cases(),
        dead_letters::cases(),
        reservations::cases(),
        tombstones::cases(),
        targets::cases(),
        totals::cases(),
        unreadable::cases(),
        applications::cases(),
        messages::cases(),
        queue::cases(),
        visibility::cases(),
        redrive::cases(),
        receivers::cases(),
    ]
    .concat()
}

/// Runs all cases, each against its own backend from `start`, and reports like any other test
/// binary.
pub fn run<S, F>(backend: &str, start: S) -> ExitCode
where
    S: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Box<dyn Backend>> + Send + 'static,
{
    report(trials(backend, start))
}

/// Runs the [`trials`] of one or several backends. `RUST_TEST_THREADS` sets how many run at once,
/// as in other test binaries.
pub fn report(trials: Vec<Trial>) -> ExitCode {
    let mut arguments = Arguments::from_args();
    let threads = std::env::var("RUST_TEST_THREADS").ok().and_then(|text| text.parse().ok());
    arguments.test_threads = arguments.test_threads.or(threads);
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// All cases as tests of one backend.
pub fn trials<S, F>(backend: &str, start: S) -> Vec<Trial>
where
    S: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Box<dyn Backend>> + Send + 'static,
{
    let start = Arc::new(start);
    let trial = |case: Case| {
        let start = Arc::clone(&start);
        let area = case.name.rsplit_once("conformance::").map_or(case.name, |(_, area)| area);
        Trial::test(format!("{backend}::{area}"), move || {
            let workers =
                runtime::Builder::new_multi_thread().worker_threads(4).enable_all().build()?;
            // Spawned on the workers, because `block_on` would run the case on this thread.
            let task = workers.spawn(async move {
                let fixture = Fixture::new(start().await).await;
                timeout(MAX_CASE, (case.run)(fixture)).await
            });
            match workers.block_on(task) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(format!("not done within {} s", MAX_CASE.as_secs()).into()),
                // The panic's message is already on stderr.
                Err(panic) => Err(panic.to_string().into()),
            }
        })
    };
    cases().into_iter().map(trial).collect()
}
