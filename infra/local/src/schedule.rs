//! The schedule: calls the sweep, again and again.

use std::{error::Error, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::watch, time::MissedTickBehavior};

/// Calls `sweep` each `interval`, beginning at once, until `stop` says so. A run that takes longer
/// puts off the next one; one that panics, which is our mistake, does not end the stack.
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
        match AssertUnwindSafe(sweep()).catch_unwind().await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(
                error = &error as &dyn Error,
                "A sweep ended early; the next one goes on"
            ),
            Err(_) => tracing::error!("A sweep panicked; the next one goes on"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// A sweep that panics is followed by the next one. Proved by panicking in the first of two.
    #[tokio::test]
    async fn a_panic_ends_one_sweep() {
        let (stop, stopped) = watch::channel(false);
        let runs = std::cell::Cell::new(0);
        let sweep = async || {
            runs.set(runs.get() + 1);
            assert!(runs.get() > 1, "on purpose");
            stop.send_replace(true);
            Ok::<(), Infallible>(())
        };
        run(sweep, Duration::from_millis(1), stopped).await;
        assert_eq!(runs.get(), 2);
    }
}
