//! The schedule: calls the sweep, again and again.

use std::{error::Error, time::Duration};

use tokio::{sync::watch, time::MissedTickBehavior};

/// Calls `sweep` each `interval`, beginning at once, until `stop` says so. A run that takes longer puts off the next one.
pub async fn run<E: Error + 'static>(
    sweep: impl AsyncFn() -> Result<(), E>,
    interval: Duration,
    mut stop: watch::Receiver<bool>,
) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if let Err(error) = sweep().await {
            tracing::warn!(error = &error as &dyn Error, "A sweep ended early; the next one goes on");
        }
    }
}
