//! The schedule: calls the sweep, again and again.

use std::time::Duration;

use shared::context::Context;
use tokio::{sync::watch, time::MissedTickBehavior};

/// How long one run may take before it leaves the rest to the next one.
const RUN_LIMIT: Duration = Duration::from_secs(50);

/// Sweeps each `interval`, beginning at once, until `stop` says so.
pub async fn run(context: Context, interval: Duration, mut stop: watch::Receiver<bool>) {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let until = context.clock.now().plus(RUN_LIMIT);
        if let Err(error) = sweep::handle(&context, until).await {
            tracing::warn!(error = &error as &dyn std::error::Error, "A sweep ended early; the next one goes on");
        }
        // What no invocation has flushed since.
        context.metrics.flush_if_due(&*context.store, context.clock.now()).await;
    }
}
