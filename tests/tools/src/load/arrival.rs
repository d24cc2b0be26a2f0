//! The receiver of the load, and the arrival time of each webhook.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
        mpsc,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use tokio::sync::oneshot;

use super::{LoadError, wire};
use harness::receiver::{Receiver, Reply, Snapshot};

/// The interval between two checks of the number of arrivals.
const POLL_INTERVAL: Duration = Duration::from_millis(2);

/// The first arrival of each webhook or delivery of a run.
#[derive(Debug)]
pub struct Arrivals {
    run: String,
    epoch: Instant,
    /// The deliveries of each number.
    parts: u32,
    /// Nanoseconds since the epoch. 0: not arrived.
    at_ns: Vec<AtomicU64>,
    distinct: AtomicU64,
    duplicates: AtomicU64,
    foreign: AtomicU64,
    latest_ns: AtomicU64,
}

impl Arrivals {
    /// A run of this many webhooks. Its clock starts now.
    pub fn new(run: String, webhooks: u32) -> Arc<Self> {
        Self::of_messages(run, webhooks, 1)
    }

    /// A run of this many messages, each to this many endpoints. The path of an endpoint ends with
    /// its number.
    pub fn of_messages(run: String, messages: u32, endpoints: u16) -> Arc<Self> {
        let parts = u32::from(endpoints);
        Arc::new(Self {
            run,
            epoch: Instant::now(),
            parts,
            at_ns: (0..messages * parts).map(|_| AtomicU64::new(0)).collect(),
            distinct: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            foreign: AtomicU64::new(0),
            latest_ns: AtomicU64::new(0),
        })
    }

    /// The start of the clock of this run.
    pub fn epoch(&self) -> Instant {
        self.epoch
    }

    /// The number of arrivals if everything arrives.
    pub fn expected(&self) -> u64 {
        self.at_ns.len() as u64
    }

    /// The run's name.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// Notes the arrival of a webhook with this payload at this path.
    pub(crate) fn note(&self, path: &str, payload: &[u8], at: Instant) {
        let part = path.rsplit('/').next().and_then(|part| part.parse().ok()).unwrap_or(0);
        let number = wire::number_in(payload, &self.run).filter(|_| part < self.parts);
        let place = number.and_then(|number| self.at_ns.get((number * self.parts + part) as usize));
        let Some(place) = place else {
            self.foreign.fetch_add(1, Relaxed);
            return;
        };
        let ns = (at - self.epoch).as_nanos().max(1) as u64;
        if place.compare_exchange(0, ns, Relaxed, Relaxed).is_ok() {
            self.latest_ns.fetch_max(ns, Relaxed);
            self.distinct.fetch_add(1, Relaxed);
        } else {
            self.duplicates.fetch_add(1, Relaxed);
        }
    }

    /// Distinct webhooks so far.
    pub fn distinct(&self) -> u64 {
        self.distinct.load(Relaxed)
    }

    /// Arrivals of webhooks that had arrived before.
    pub fn duplicates(&self) -> u64 {
        self.duplicates.load(Relaxed)
    }

    /// Requests that do not belong to this run.
    pub fn foreign(&self) -> u64 {
        self.foreign.load(Relaxed)
    }

    /// The latest first arrival, since the epoch.
    pub fn latest(&self) -> Duration {
        Duration::from_nanos(self.latest_ns.load(Relaxed))
    }

    /// The first arrival of this webhook, since the epoch.
    pub fn at(&self, number: u32) -> Option<Duration> {
        let ns = self.at_ns.get(number as usize)?.load(Relaxed);
        (ns > 0).then(|| Duration::from_nanos(ns))
    }

    /// Waits until this many webhooks have arrived.
    pub async fn wait_for(&self, accepted: u64, bound: Duration) -> Result<(), LoadError> {
        let deadline = Instant::now() + bound;
        while self.distinct() < accepted {
            if Instant::now() > deadline {
                return Err(LoadError::Missing { arrived: self.distinct(), accepted, bound });
            }
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        Ok(())
    }
}

/// A receiver on its own thread and runtime. It and the client do not delay each other.
#[derive(Debug)]
pub struct LoadReceiver {
    url: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<Snapshot>>,
}

impl LoadReceiver {
    /// Starts it on a free port of 127.0.0.1.
    pub fn start(arrivals: Arc<Arrivals>) -> Result<Self, LoadError> {
        let (stop, stopped) = oneshot::channel();
        let (started, start) = mpsc::channel();
        let work = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let script = move |request: &harness::receiver::Received| {
                    arrivals.note(request.uri.path(), &request.body, request.at);
                    Reply::status(200)
                };
                let receiver = Receiver::builder()
                    .script(script)
                    .keep(false)
                    .start()
                    .await
                    .map_err(|error| error.to_string())?;
                let _ = started.send(receiver.url("/load"));
                let _ = stopped.await;
                Ok::<_, String>(receiver.stop().await)
            })
        };
        let thread =
            std::thread::Builder::new().name("receiver".into()).spawn(move || match work() {
                Ok(counts) => counts,
                Err(error) => {
                    // The sender is dropped, so `start.recv` fails.
                    shared::complain!("load: the receiver could not start: {error}");
                    Snapshot::default()
                }
            });
        let thread =
            thread.map_err(|error| LoadError::Plan(format!("cannot start a thread: {error}")))?;
        let url = start.recv().map_err(|_| LoadError::Thread)?;
        Ok(Self { url, stop: Some(stop), thread: Some(thread) })
    }

    /// The destination URL of the load.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Stops it and returns its counts.
    pub fn stop(mut self) -> Result<Snapshot, LoadError> {
        drop(self.stop.take());
        let thread = self.thread.take().ok_or(LoadError::Thread)?;
        thread.join().map_err(|_| LoadError::Thread)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arrival_counts_once_and_a_foreign_request_is_ignored() {
        let arrivals = Arrivals::new("0badcafe".into(), 2);
        let payload = |n: u32| format!("{{\"run\":\"0badcafe\",\"seq\":\"{n:08}\",\"pad\":\"\"}}");
        let at = arrivals.epoch() + Duration::from_millis(3);
        for payload in [payload(1), payload(1), payload(2), "{}".into()] {
            arrivals.note("/load", payload.as_bytes(), at);
        }
        assert_eq!((arrivals.distinct(), arrivals.duplicates(), arrivals.foreign()), (1, 1, 2));
        assert_eq!((arrivals.at(0), arrivals.at(1)), (None, Some(Duration::from_millis(3))));
    }

    #[test]
    fn a_message_arrives_once_at_each_endpoint() {
        let arrivals = Arrivals::of_messages("0badcafe".into(), 2, 3);
        let payload = "{\"run\":\"0badcafe\",\"seq\":\"00000001\",\"pad\":\"\"}";
        for path in ["/load/0", "/load/2", "/load/2", "/load/3"] {
            arrivals.note(path, payload.as_bytes(), arrivals.epoch());
        }
        let counts = (arrivals.distinct(), arrivals.duplicates(), arrivals.foreign());
        assert_eq!((arrivals.expected(), counts), (6, (2, 1, 1)));
    }
}
