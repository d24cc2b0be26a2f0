//! `sweep`: queues webhooks and messages that fall due within the next minute, and audits
//! unfinished ones.
//!
//! Runs may overlap, and a run may be skipped. Every change is a conditional write, and the next
//! run finds whatever this one did not do.
//!
//! - `run`: one run from start to report
//! - `due`: queues what the due index holds
//! - `audit`: adds unfinished webhooks to the due index that are not in it
//! - `clock`: finds and repairs what a clock that was ahead has written
//! - `isolation`: contains the panic of one webhook or message
//! - `summary`: the result of a run

mod audit;
mod clock;
mod due;
mod isolation;
mod run;
mod summary;

pub use run::handle;
pub use summary::{Summary, SweepError};
