//! The conformance suite: what every [`Store`] and every [`Queue`] must do, proved against real
//! ones.
//!
//! A case is a plain async function over a [`Fixture`]; each area has a file and lists its cases
//! there, and a case that is not listed does not compile (it is dead code). A backend is a line in
//! a test file of its own, with `harness = false`:
//!
//! ```text
//! fn main() -> std::process::ExitCode {
//!     conformance::run("sqlite", || async { Box::new(Sqlite::start()) as Box<dyn Backend> })
//! }
//! ```
//!
//! Each case shows by name in the output of `cargo test` and can be chosen by it. A case whose
//! backend does not start fails; there is no way to skip one.
//!
//! | area | what it proves |
//! |---|---|
//! | `create`, `write`, `delete`, `tombstones` | conditional writes of a webhook and its content |
//! | `transitions` | every event on every status: record and indexes agree |
//! | `races` | real concurrent writers over two handles: one claim, one outcome, no resurrection |
//! | `due`, `audit`, `expiry`, `list`, `dead_letters` | the indexes |
//! | `reservations`, `circuits`, `totals` | what else must outlive a process |
//! | `unreadable` | records of a newer version |
//! | `queue`, `visibility`, `redrive`, `receivers` | the queue |
//!
//! The suite waits for conditions with a bound, and lets no time pass otherwise. Cases run in
//! parallel, each with a backend of its own.
//!
//! [`Store`]: shared::store::Store
//! [`Queue`]: shared::queue::Queue

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "the functions of the suite are tests: their panics are its verdicts"
)]

mod audit;
mod circuits;
mod create;
mod dead_letters;
mod delete;
mod due;
mod expiry;
mod fixture;
mod list;
mod queue;
mod races;
mod receivers;
mod redrive;
mod reservations;
mod steps;
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

/// The longest that a case may take, on a slow machine with a remote server: 2 minutes. Usually it
/// takes less than a second.
const MAX_CASE: Duration = Duration::from_secs(120);

/// One thing that a backend must do.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    /// Its area and the function's name.
    pub name: &'static str,
    /// Panics if the backend does not.
    pub run: fn(Fixture) -> Pin<Box<dyn Future<Output = ()> + Send>>,
}

/// The cases of an area, each with the function's own name.
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
        circuits::cases(),
        totals::cases(),
        unreadable::cases(),
        queue::cases(),
        visibility::cases(),
        redrive::cases(),
        receivers::cases(),
    ]
    .concat()
}

/// Runs all cases against a backend, each against one that `start` made for it, and reports like
/// any other test binary.
pub fn run<S, F>(backend: &str, start: S) -> ExitCode
where
    S: Fn() -> F + Send + Sync + 'static,
    F: Future<Output = Box<dyn Backend>> + Send + 'static,
{
    report(trials(backend, start))
}

/// Runs what [`trials`] made for one backend or several.
pub fn report(trials: Vec<Trial>) -> ExitCode {
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// All cases as tests of a backend.
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
            // Spawned, so that the cases's tasks and the case itself run on the workers.
            let task = workers.spawn(async move {
                let fixture = Fixture::new(start().await).await;
                timeout(MAX_CASE, (case.run)(fixture)).await
            });
            match workers.block_on(task) {
                Ok(Ok(())) => Ok(()),
                Ok(Err(_)) => Err(format!("not done within {} s", MAX_CASE.as_secs()).into()),
                // The panic's message is on stderr already.
                Err(panic) => Err(panic.to_string().into()),
            }
        })
    };
    cases().into_iter().map(trial).collect()
}
