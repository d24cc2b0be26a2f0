//! A clock that does not advance.

use std::time::Duration;

use async_trait::async_trait;
use shared::clock::{Clock, Timestamp};

/// A clock that always shows this time, so that every run stores the same values. Its sleeps take
/// real time.
#[derive(Clone, Copy, Debug)]
pub struct StoppedClock(pub Timestamp);

#[async_trait]
impl Clock for StoppedClock {
    fn now(&self) -> Timestamp {
        self.0
    }

    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }

    async fn sleep(&self, wait: Duration) {
        tokio::time::sleep(wait).await;
    }
}
