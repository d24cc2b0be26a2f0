//! Counters that connections share without a lock, so that counting does not slow down a benchmark.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::signature::SignatureStatus;

/// Status codes below this number are counted.
const CODES: usize = 600;

/// All counters.
#[derive(Debug)]
pub(super) struct Counts {
    started: Instant,
    received: AtomicU64,
    bytes: AtomicU64,
    abandoned: AtomicU64,
    answered: Vec<AtomicU64>,
    verdicts: [AtomicU64; 4],
    without_id: AtomicU64,
    repeated: AtomicU64,
    duplicates: AtomicU64,
    seen: IdSet,
    taken: IdSet,
}

impl Default for Counts {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            received: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            answered: (0..CODES).map(|_| AtomicU64::new(0)).collect(),
            verdicts: [const { AtomicU64::new(0) }; 4],
            without_id: AtomicU64::new(0),
            repeated: AtomicU64::new(0),
            duplicates: AtomicU64::new(0),
            seen: IdSet::default(),
            taken: IdSet::default(),
        }
    }
}

impl Counts {
    /// Counts a complete request. Returns the hash of its webhook-id, for
    /// [`responded`](Self::responded).
    pub(super) fn arrived(
        &self,
        webhook_id: Option<&[u8]>,
        bytes: usize,
        verdict: SignatureStatus,
    ) -> Option<IdHash> {
        self.received.fetch_add(1, Relaxed);
        self.bytes.fetch_add(bytes as u64, Relaxed);
        self.verdicts[verdict as usize].fetch_add(1, Relaxed);
        let Some(id) = webhook_id.map(IdHash::of) else {
            self.without_id.fetch_add(1, Relaxed);
            return None;
        };
        if !self.seen.insert(id) {
            self.repeated.fetch_add(1, Relaxed);
        }
        Some(id)
    }

    /// Counts a response with this status code.
    pub(super) fn responded(&self, id: Option<IdHash>, code: u16) {
        if let Some(counter) = self.answered.get(usize::from(code)) {
            counter.fetch_add(1, Relaxed);
        }
        let taken_before =
            (200..300).contains(&code) && id.is_some_and(|id| !self.taken.insert(id));
        if taken_before {
            self.duplicates.fetch_add(1, Relaxed);
        }
    }

    /// Counts a request whose connection closed before the response.
    pub(super) fn abandoned(&self) {
        self.abandoned.fetch_add(1, Relaxed);
    }

    /// The number of requests without a response yet.
    pub(super) fn in_flight(&self) -> u64 {
        let answered: u64 = self.answered.iter().map(|counter| counter.load(Relaxed)).sum();
        self.received.load(Relaxed).saturating_sub(answered + self.abandoned.load(Relaxed))
    }

    pub(super) fn snapshot(&self) -> Snapshot {
        let answered = self
            .answered
            .iter()
            .enumerate()
            .map(|(code, counter)| (code as u16, counter.load(Relaxed)));
        let verdict = |verdict: SignatureStatus| self.verdicts[verdict as usize].load(Relaxed);
        let received = self.received.load(Relaxed);
        let repeated = self.repeated.load(Relaxed);
        Snapshot {
            uptime_seconds: (self.started.elapsed().as_secs_f64() * 1000.0).round() / 1000.0,
            received,
            bytes: self.bytes.load(Relaxed),
            answered: answered.filter(|(_, count)| *count > 0).collect(),
            in_flight: self.in_flight(),
            abandoned: self.abandoned.load(Relaxed),
            distinct_webhook_ids: received.saturating_sub(repeated + self.without_id.load(Relaxed)),
            repeated,
            duplicates: self.duplicates.load(Relaxed),
            signatures: SignatureCounts {
                valid: verdict(SignatureStatus::Valid),
                invalid: verdict(SignatureStatus::Invalid),
                missing: verdict(SignatureStatus::Missing),
                unchecked: verdict(SignatureStatus::Unchecked),
            },
        }
    }
}

/// The counts of a receiver, as `GET /status` shows them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Seconds since the start of the receiver.
    pub uptime_seconds: f64,
    /// Complete requests.
    pub received: u64,
    /// Bytes of their bodies.
    pub bytes: u64,
    /// Responses by status code.
    pub answered: BTreeMap<u16, u64>,
    /// Requests without a response yet.
    pub in_flight: u64,
    /// Requests whose connection closed before the response.
    pub abandoned: u64,
    /// Distinct webhook-ids.
    pub distinct_webhook_ids: u64,
    /// Requests with a known webhook-id: retries and duplicates.
    pub repeated: u64,
    /// Requests with a 2xx response whose webhook-id already had a 2xx response.
    pub duplicates: u64,
    /// The results of the signature checks.
    pub signatures: SignatureCounts,
}

/// Requests by the result of the signature check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignatureCounts {
    /// Valid signatures.
    pub valid: u64,
    /// Invalid signatures.
    pub invalid: u64,
    /// Requests without a signature.
    pub missing: u64,
    /// Requests to a receiver without a secret.
    pub unchecked: u64,
}

/// A 64-bit hash of a webhook-id. With ten million IDs, one in 370,000 runs has a collision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct IdHash(u64);

impl IdHash {
    fn of(id: &[u8]) -> Self {
        let mut hasher = DefaultHasher::new();
        id.hash(&mut hasher);
        // 0 marks an empty slot.
        Self(hasher.finish().max(1))
    }
}

/// The number of tables of an [`IdSet`]. Each is four times as large as the previous one.
const TABLES: usize = 7;
/// The number of slots of the first table: 32 KiB.
const FIRST_TABLE_SLOTS: usize = 1 << 12;
/// The number of slots of a table in which an ID can be.
const WINDOW_SLOTS: usize = 16;

/// A set without locks. IDs cannot be removed.
///
/// An ID is in a window of adjacent slots of one table. Slots are never emptied, so all threads
/// find the same first empty slot for an ID. A compare-and-swap fills it: if two threads insert the
/// same ID at once, one of them succeeds. If the window is full, the next table is used. After
/// [`TABLES`] full windows (about 20 million IDs), an ID always counts as new.
#[derive(Debug, Default)]
struct IdSet {
    tables: [OnceLock<Box<[AtomicU64]>>; TABLES],
}

impl IdSet {
    /// Inserts an ID. Returns whether it is new.
    fn insert(&self, id: IdHash) -> bool {
        for (n, table) in self.tables.iter().enumerate() {
            let slots = FIRST_TABLE_SLOTS << (2 * n);
            let table = table.get_or_init(|| (0..slots).map(|_| AtomicU64::new(0)).collect());
            let first = (id.0 as usize) & (slots - 1);
            for step in 0..WINDOW_SLOTS {
                let slot = &table[(first + step) & (slots - 1)];
                let found = match slot.load(Relaxed) {
                    0 => slot.compare_exchange(0, id.0, Relaxed, Relaxed).err(),
                    other => Some(other),
                };
                match found {
                    None => return true,
                    Some(other) if other == id.0 => return false,
                    Some(_) => {}
                }
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn a_set_counts_each_id_once_while_threads_insert_the_same_ids() {
        let set = IdSet::default();
        let new = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..50_000_u32 {
                        if set.insert(IdHash::of(&n.to_be_bytes())) {
                            new.fetch_add(1, Relaxed);
                        }
                    }
                });
            }
        });
        assert_eq!(new.load(Relaxed), 50_000);
    }

    #[test]
    fn a_retry_is_repeated_and_only_a_second_success_is_a_duplicate() {
        let counts = Counts::default();
        for code in [500, 200, 200] {
            let id = counts.arrived(Some(b"a"), 10, SignatureStatus::Unchecked);
            counts.responded(id, code);
        }
        let id = counts.arrived(None, 5, SignatureStatus::Unchecked);
        counts.responded(id, 200);
        let seen = counts.snapshot();
        assert_eq!((seen.received, seen.bytes, seen.distinct_webhook_ids), (4, 35, 1));
        assert_eq!((seen.repeated, seen.duplicates, seen.in_flight), (2, 1, 0));
        assert_eq!(seen.answered, BTreeMap::from([(200, 3), (500, 1)]));
    }

    #[test]
    fn a_request_without_a_response_is_in_flight_until_it_is_abandoned() {
        let counts = Counts::default();
        counts.arrived(Some(b"a"), 1, SignatureStatus::Missing);
        assert_eq!(counts.in_flight(), 1);
        counts.abandoned();
        let seen = counts.snapshot();
        assert_eq!((seen.in_flight, seen.abandoned, seen.signatures.missing), (0, 1, 1));
    }
}
