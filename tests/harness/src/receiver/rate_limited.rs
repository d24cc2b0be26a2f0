//! A receiver that protects itself: it takes a number of requests a second and refuses the rest.

use std::{
    sync::{Mutex, PoisonError},
    time::Instant,
};

use super::answer::{Received, Reply};

/// The script of a receiver that takes `per_second` requests in each second of its clock, as most
/// rate-limited APIs do. It answers the others with `429` and this `Retry-After`.
///
/// The windows are fixed: they start at whole seconds after the call of this function. So up to
/// twice `per_second` requests are taken around the border of two windows.
pub fn fixed_windows(
    per_second: u32,
    retry_after: &'static str,
) -> impl Fn(&Received) -> Reply + Send + Sync + 'static {
    let windows = Mutex::new(FixedWindows { first: Instant::now(), current: 0, taken: 0 });
    move |request| {
        let mut windows = windows.lock().unwrap_or_else(PoisonError::into_inner);
        if windows.take(request.at, per_second) {
            Reply::status(200)
        } else {
            Reply::status(429).header("retry-after", retry_after)
        }
    }
}

struct FixedWindows {
    first: Instant,
    /// The number of the latest window with a request.
    current: u64,
    /// The requests that it has taken.
    taken: u32,
}

impl FixedWindows {
    fn take(&mut self, at: Instant, most: u32) -> bool {
        let window = at.saturating_duration_since(self.first).as_secs();
        // Requests of two connections can come out of order. A late one counts for the newer
        // window.
        if window > self.current {
            (self.current, self.taken) = (window, 0);
        }
        let is_taken = self.taken < most;
        self.taken += u32::from(is_taken);
        is_taken
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn each_second_takes_so_many_requests_and_refuses_the_rest() {
        let first = Instant::now();
        let mut windows = FixedWindows { first, current: 0, taken: 0 };
        let mut taken = |millis| windows.take(first + Duration::from_millis(millis), 2);
        assert_eq!([0, 500, 999].map(&mut taken), [true, true, false]);
        assert_eq!([1000, 999, 1001, 1999].map(&mut taken), [true, true, false, false]);
        assert_eq!([5000, 5000, 5000].map(&mut taken), [true, true, false]);
    }
}
