//! The traffic tool: measures traffic control on real processes, against the targets of its design.
//!
//! | module | contents |
//! |---|---|
//! | [`plan`] | the options |
//! | `stacks` | the processes under test, and submissions to them |
//! | [`throttled`] | webhooks to a receiver that takes so many a second and refuses the rest |
//! | [`isolation`] | a healthy path beside a broken one, an application beside one that hangs |
//! | [`limit`] | a configured rate, with several processes |
//! | [`figure`] | a figure and its target |
//! | [`report`] | all figures, as a table or as JSON |

pub mod figure;
pub mod isolation;
pub mod limit;
pub mod plan;
pub mod report;
mod stacks;
pub mod throttled;

use harness::client::ClientError;

use self::{
    isolation::Case,
    plan::{Measurement, Plan},
    report::TrafficReport,
};
use crate::load::LoadError;

/// The reason for a failed measurement.
#[derive(Debug, thiserror::Error)]
pub enum TrafficError {
    /// A stack, a socket or a thread failed.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// A stack did not start or stop.
    #[error(transparent)]
    Stack(#[from] harness::process::ProcessError),
    /// Redis did not start.
    #[error(transparent)]
    Redis(#[from] harness::redis_server::RedisServerError),
    /// The receiver did not start.
    #[error(transparent)]
    Receiver(#[from] harness::receiver::ReceiverError),
    /// The API failed.
    #[error(transparent)]
    Api(#[from] ClientError),
    /// The API accepted fewer webhooks than it was sent.
    #[error("the API accepted {accepted} of {sent} webhooks")]
    Refused {
        /// Accepted webhooks.
        accepted: usize,
        /// Webhooks that were sent.
        sent: usize,
    },
}

/// Runs the measurements of a plan, one after the other.
pub async fn run(plan: &Plan) -> Result<TrafficReport, TrafficError> {
    let mut report = TrafficReport::new(plan.backend());
    for measurement in plan.measurements() {
        match measurement {
            Measurement::Throttled => {
                for case in &plan.throttled {
                    report.throttled.push(throttled::measure(plan, *case).await?);
                }
            }
            Measurement::Isolation => {
                report.isolation.push(isolation::measure(plan, Case::Paths).await?);
            }
            Measurement::Applications => {
                report.isolation.push(isolation::measure(plan, Case::Applications).await?);
            }
            Measurement::Limit => report.limit = Some(limit::measure(plan).await?),
        }
    }
    Ok(report)
}
