//! Limits test messages: one a second for each endpoint and process.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use shared::applications::id::{ApplicationId, EndpointId};

use crate::problem::{Problem, ProblemKind};

/// The time between two test messages to an endpoint.
const INTERVAL: Duration = Duration::from_secs(1);

/// The endpoints that are remembered before old ones are dropped.
const MAX_REMEMBERED: usize = 1000;

/// When each endpoint last got a test message, by the monotonic clock.
#[derive(Debug, Default)]
pub(crate) struct TestLimiter {
    // A std mutex: it is held for a few instructions, never across an await.
    latest: Mutex<HashMap<(ApplicationId, EndpointId), Duration>>,
}

impl TestLimiter {
    /// Counts a test message, or refuses it with a 429.
    pub(crate) fn take(
        &self,
        application: &ApplicationId,
        endpoint: EndpointId,
        now: Duration,
    ) -> Result<(), Problem> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &Duration| now.saturating_sub(*at) < INTERVAL;
        if latest.len() >= MAX_REMEMBERED {
            latest.retain(|_, at| is_recent(at));
        }
        let key = (application.clone(), endpoint);
        if latest.get(&key).is_some_and(is_recent) {
            return Err(Problem::new(
                ProblemKind::TooManyRequests,
                "An endpoint gets at most one test message a second. Try again shortly.",
            ));
        }
        latest.insert(key, now);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_endpoint_gets_one_test_message_a_second_whatever_others_get() {
        let limiter = TestLimiter::default();
        let (acme, globex): (ApplicationId, ApplicationId) =
            ("acme".parse().unwrap(), "globex".parse().unwrap());
        let (one, two) = (EndpointId::mint([1; 10]), EndpointId::mint([2; 10]));
        let take = |application, endpoint, ms| {
            limiter.take(application, endpoint, Duration::from_millis(ms)).is_ok()
        };
        assert!(take(&acme, one, 5_000) && take(&acme, two, 5_000) && take(&globex, one, 5_000));
        assert!(!take(&acme, one, 5_999));
        assert!(take(&acme, one, 6_000) && !take(&acme, one, 6_500));
    }

    #[test]
    fn old_endpoints_are_forgotten() {
        let limiter = TestLimiter::default();
        let acme: ApplicationId = "acme".parse().unwrap();
        for number in 0..3 * MAX_REMEMBERED as u64 {
            let mut random = [0; 10];
            random[..8].copy_from_slice(&number.to_be_bytes());
            let now = Duration::from_millis(2 * number);
            limiter.take(&acme, EndpointId::mint(random), now).unwrap();
        }
        assert!(limiter.latest.lock().unwrap().len() <= MAX_REMEMBERED);
    }
}
