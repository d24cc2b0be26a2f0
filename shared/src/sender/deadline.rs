//! The deadline of an attempt, which holds even if the process is suspended during the attempt.
//!
//! A suspended worker must not send a webhook after another worker has claimed it. A timer alone
//! does not prevent that: when the worker resumes, the socket can be ready before the timer. So the
//! code checks the time *before* each step, including each write of request bytes (`exchange.rs`).

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
    time::{Duration, SystemTime},
};

use tokio::time::Instant;

/// The maximum deadline: one day. It keeps sums of times within range.
const MAX_DEADLINE: Duration = Duration::from_secs(24 * 60 * 60);

/// The time at which an attempt stops.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    /// The same time by the wall clock, which leases use. The monotonic clock stops while the
    /// machine sleeps.
    wall: SystemTime,
}

impl Deadline {
    pub(super) fn after(wait: Duration) -> Self {
        let wait = wait.min(MAX_DEADLINE);
        Self { at: Instant::now() + wait, wall: SystemTime::now() + wait }
    }

    /// This deadline, or `wait` from now if that is earlier.
    pub(super) fn or_after(self, wait: Duration) -> Self {
        let other = Self::after(wait);
        Self { at: self.at.min(other.at), wall: self.wall.min(other.wall) }
    }

    pub(super) fn has_passed(&self) -> bool {
        Instant::now() >= self.at || SystemTime::now() >= self.wall
    }

    /// The output of `future`, or `None` at the deadline. After the deadline, `future` is not
    /// polled.
    pub(super) async fn run<F: Future>(self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut alarm = pin!(tokio::time::sleep_until(self.at));
        poll_fn(|cx| {
            if self.has_passed() {
                return Poll::Ready(None);
            }
            match future.as_mut().poll(cx) {
                Poll::Ready(output) => Poll::Ready(Some(output)),
                // A future that is ready immediately needs no timer.
                Poll::Pending => alarm.as_mut().poll(cx).map(|()| None),
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The machine slept: its timer stood still, but by the clock on the wall the deadline is over.
    #[tokio::test]
    async fn either_clock_ends_it() {
        let asleep = Deadline { at: Instant::now() + MAX_DEADLINE, wall: SystemTime::now() };
        assert!(asleep.has_passed());
        assert_eq!(asleep.run(async { unreachable!("must not be polled") as u8 }).await, None);
    }

    /// A future that is ready at the deadline is too late: it might be the connection that was just
    /// made.
    #[tokio::test(start_paused = true)]
    async fn a_future_that_is_ready_at_the_deadline_is_too_late() {
        let deadline = Deadline::after(Duration::from_secs(1));
        let ready_at = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
        assert_eq!(deadline.run(ready_at(1)).await, None);
        let deadline = Deadline::after(Duration::from_secs(2));
        assert_eq!(deadline.run(ready_at(1)).await, Some(()));
        assert!(deadline.or_after(Duration::ZERO).has_passed() && !deadline.has_passed());
    }
}
