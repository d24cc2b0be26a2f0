//! Waits for a condition.

#![allow(clippy::missing_panics_doc, reason = "tests call this: its panics are their failures")]

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// The pause between two checks of a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the condition is met. Panics with `what` if that takes longer than `bound`.
pub async fn wait_until(what: &str, bound: Duration, mut is_met: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !is_met().await {
        assert!(started.elapsed() < bound, "not within {bound:?}: {what}");
        sleep(POLL_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waiting_ends_once_the_condition_is_met() {
        let mut checks = 0;
        wait_until("the third check", Duration::from_secs(30), async || {
            checks += 1;
            checks == 3
        })
        .await;
        assert_eq!(checks, 3);
    }

    #[tokio::test]
    #[should_panic(expected = "not within 0ns: never")]
    async fn waiting_fails_after_the_bound() {
        wait_until("never", Duration::ZERO, async || false).await;
    }
}
