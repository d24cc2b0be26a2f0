//! How full the server's memory is. Near its limit (`maxmemory`) the store refuses new webhooks, so
//! there is room left to deliver the accepted ones.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use ::redis::InfoDict;

use crate::redis::Connection;

/// The share of `maxmemory` from which the store refuses new webhooks, messages and
/// applications: 90 %.
const FULL_PERCENT: u64 = 90;

/// The time between two questions to the server.
const INTERVAL: Duration = Duration::from_secs(1);

/// The server's last answer.
#[derive(Clone, Debug, Default)]
pub(super) struct Gauge(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    is_full: AtomicBool,
    asked_at: Mutex<Option<Instant>>,
}

impl Gauge {
    /// Whether the server was nearly full at its last answer. Asks again in the background, at most
    /// once a second. On a cluster the fullest node decides, because webhooks are spread evenly.
    pub(super) fn is_full(&self, connection: &Connection) -> bool {
        if self.is_time() {
            let (gauge, connection) = (Arc::clone(&self.0), connection.clone());
            tokio::spawn(async move {
                // Without an answer the last one stands. The server itself refuses at 100 %.
                if let Ok(nodes) = connection.info("memory").await {
                    gauge.is_full.store(nodes.iter().any(is_nearly_full), Ordering::Relaxed);
                }
            });
        }
        self.0.is_full.load(Ordering::Relaxed)
    }

    fn is_time(&self) -> bool {
        let mut asked_at = self.0.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = asked_at.is_none_or(|at| at.elapsed() >= INTERVAL);
        if is_time {
            *asked_at = Some(Instant::now());
        }
        is_time
    }
}

/// Whether a node's memory is nearly full.
pub(super) fn is_nearly_full(memory: &InfoDict) -> bool {
    used_percent(memory).is_some_and(|percent| percent >= FULL_PERCENT)
}

/// The used share of the node's limit. `None`: the node has no limit or does not report it.
fn used_percent(memory: &InfoDict) -> Option<u64> {
    let number = |name: &str| memory.get::<u64>(name);
    let limit = number("maxmemory").filter(|limit| *limit > 0)?;
    // The server leaves its buffers for replicas and for the disk out, too.
    let used =
        number("used_memory")?.saturating_sub(number("mem_not_counted_for_evict").unwrap_or(0));
    Some(used.saturating_mul(100) / limit)
}

/// The warning of the health check.
pub(super) fn warning() -> String {
    format!(
        "memory is {FULL_PERCENT} % full or more: new webhooks are refused, accepted ones are \
         delivered; raise maxmemory or delete webhooks"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_nearly_full_from_nine_tenths_of_its_limit_on() {
        let info = |text: &str| InfoDict::new(text);
        assert!(!is_nearly_full(&info("used_memory:899\r\nmaxmemory:1000\r\n")));
        assert!(is_nearly_full(&info("used_memory:900\r\nmaxmemory:1000\r\n")));
        assert!(!is_nearly_full(&info(
            "used_memory:950\r\nmaxmemory:1000\r\nmem_not_counted_for_evict:100\r\n"
        )));
        assert!(!is_nearly_full(&info("used_memory:900\r\nmaxmemory:0\r\n")), "no limit");
        assert!(!is_nearly_full(&info("used_memory:900\r\n")), "it does not tell");
    }
}
