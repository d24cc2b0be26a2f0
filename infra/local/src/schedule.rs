//! The schedule: invokes the sweep at an interval.

use std::{error::Error, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::{sync::watch, time::MissedTickBehavior};

/// Invokes `sweep` at once and then at each `interval`, until `stop` is true. A longer run delays
/// the next one. A run that panics, which is a bug, does not stop the stack.
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
            Ok(Err(error)) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "A sweep ended early. The next one continues");
            }
            Err(_) => tracing::error!("A sweep panicked. The next one continues"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    /// The next sweep runs after one that panics. Tested by a panic in the first of two.
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
