//! Limits on concurrent work: requests in progress, the memory that they hold, and the records that
//! they read.
//!
//! - *Memory* (`API_BODY_BYTES`) is reserved before a body is read, for its `content-length`, and
//!   as the body grows if that header is missing. A large response holds memory until it is sent.
//!   Without memory, the request gets a 503.
//! - A *slot* (`API_CONCURRENCY`) is held from the time when the body is complete until the handler
//!   returns. Without a free slot, the request gets a 503.
//! - *Records* are reserved while a list is read. A list waits up to [`RECORDS_TIMEOUT`] for them,
//!   then it gets a 503.
//!
//! A body that arrives slowly holds memory but no slot. If there are several API keys, each key can
//! use at most half of the memory and of the slots, so that one caller cannot exclude the others.
//! The same holds for each application, with all its keys together.
//! Requests do not wait for memory or slots: a waiting request holds memory too, and an immediate
//! 503 lets the caller slow down.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use shared::{
    applications::id::ApplicationId,
    config::{Config, KeyHash, MIN_API_BODY_BYTES},
};
use subtle::ConstantTimeEq;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    edge::auth::{Access, Caller, presented_key},
    limits::MAX_BODY_BYTES,
    problem::{Problem, ProblemKind},
};

/// The memory that a request holds at most for each byte of its body: the body, the payloads copied
/// from it, and the serialized records that wait to be written. This is a measured value.
const MEMORY_PER_BODY_BYTE: usize = 3;

/// The memory of a request with a small body or none.
const MIN_REQUEST_BYTES: usize = 4 * 1024;

/// Responses up to this size reserve no memory.
const SMALL_RESPONSE_BYTES: usize = 16 * 1024;

/// The records that all lists hold at a time. The largest record is about 60 KiB.
const MAX_RECORDS: usize = 4000;

/// How long a list waits for other lists to finish.
const RECORDS_TIMEOUT: Duration = Duration::from_secs(5);

/// The applications whose shares are kept although they are idle.
const MAX_IDLE_APPLICATIONS: usize = 1000;

/// The unit of memory permits.
const KIB: usize = 1024;

// The smallest setting admits the largest body.
const _: () = assert!(MAX_BODY_BYTES * MEMORY_PER_BODY_BYTE <= MIN_API_BODY_BYTES as usize);

/// The capacity of a process.
#[derive(Debug)]
pub(crate) struct Capacity {
    total: Pools,
    /// The part that each API key can use, if there are several keys.
    shares: Vec<(KeyHash, Pools)>,
    /// The slots and bytes of a share.
    share: (usize, usize),
    /// The shares of the applications whose keys have been used.
    // A std mutex: it is held for a few instructions, never across an await.
    applications: Mutex<HashMap<ApplicationId, Pools>>,
    records: Arc<Semaphore>,
}

#[derive(Clone, Debug)]
struct Pools {
    slots: Arc<Semaphore>,
    memory_kib: Arc<Semaphore>,
}

impl Pools {
    fn new(slots: usize, bytes: usize) -> Self {
        Self {
            slots: Arc::new(Semaphore::new(slots)),
            memory_kib: Arc::new(Semaphore::new(bytes / KIB)),
        }
    }

    /// Whether nothing refers to them but the caller.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.slots) == 1 && Arc::strong_count(&self.memory_kib) == 1
    }
}

/// The part of the capacity that a request uses: that of its API key or of its application.
#[derive(Clone, Debug, Default)]
pub(crate) struct KeyShare(Option<Pools>);

/// Reserved capacity. Dropping it releases the capacity.
#[derive(Debug, Default)]
pub(crate) struct Permit(Vec<OwnedSemaphorePermit>);

/// Memory reserved for a body that may grow.
#[derive(Debug)]
pub(crate) struct BodyPermit<'a> {
    capacity: &'a Capacity,
    share: KeyShare,
    kib: usize,
    permit: Permit,
}

impl Capacity {
    pub(crate) fn new(config: &Config, access: &Access) -> Self {
        let slots = config.api_concurrency;
        let bytes = usize::try_from(config.api_body_bytes).unwrap_or(usize::MAX);
        // Half of one slot is one slot, and half of the memory still admits the largest body.
        let share = (slots.div_ceil(2), (bytes / 2).max(MIN_API_BODY_BYTES as usize));
        let shares = match access {
            Access::Keys(hashes) if hashes.len() > 1 => {
                hashes.iter().map(|hash| (*hash, Pools::new(share.0, share.1))).collect()
            }
            _ => Vec::new(),
        };
        Self {
            total: Pools::new(slots, bytes),
            shares,
            share,
            applications: Mutex::default(),
            records: Arc::new(Semaphore::new(MAX_RECORDS)),
        }
    }

    /// The share of this caller, who sent these headers.
    pub(crate) fn share_of(&self, caller: &Caller, headers: &HeaderMap) -> KeyShare {
        if let Some(application) = caller.application() {
            return KeyShare(Some(self.of_application(application)));
        }
        if self.shares.is_empty() {
            return KeyShare(None);
        }
        let Some(presented) = presented_key(headers).map(KeyHash::of) else {
            return KeyShare(None);
        };
        let own = self.shares.iter().find(|(hash, _)| bool::from(hash.ct_eq(&presented)));
        KeyShare(own.map(|(_, pools)| pools.clone()))
    }

    fn of_application(&self, id: &ApplicationId) -> Pools {
        let mut applications = self.applications.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pools) = applications.get(id) {
            return pools.clone();
        }
        if applications.len() >= MAX_IDLE_APPLICATIONS {
            applications.retain(|_, pools| !pools.is_idle());
        }
        let pools = Pools::new(self.share.0, self.share.1);
        applications.insert(id.clone(), pools.clone());
        pools
    }

    fn pools<'a>(&'a self, share: &'a KeyShare) -> impl Iterator<Item = &'a Pools> {
        // The own pools first: if the total is exhausted, the own permit is released at once.
        share.0.iter().chain([&self.total])
    }

    /// A slot for a request whose body is complete.
    pub(crate) fn slot(&self, share: &KeyShare) -> Result<Permit, Problem> {
        let slots = self.pools(share).map(|pools| Arc::clone(&pools.slots).try_acquire_owned());
        slots
            .collect::<Result<_, _>>()
            .map(Permit)
            .map_err(|_| overloaded("Too many concurrent requests. Try again shortly."))
    }

    /// Memory for a body of this length, or of at least this length.
    pub(crate) fn body(&self, share: &KeyShare, length: usize) -> Result<BodyPermit<'_>, Problem> {
        let share = share.clone();
        let mut body = BodyPermit { capacity: self, share, kib: 0, permit: Permit::default() };
        body.grow_to(length)?;
        Ok(body)
    }

    /// Memory for a response until it is sent. `None` if the response is small.
    pub(crate) fn response(
        &self,
        share: &KeyShare,
        length: usize,
    ) -> Option<Result<Permit, Problem>> {
        (length > SMALL_RESPONSE_BYTES).then(|| self.memory(share, length.div_ceil(KIB)))
    }

    /// Reserves this many records. Waits for other lists to finish.
    pub(crate) async fn records(&self, count: usize) -> Result<OwnedSemaphorePermit, Problem> {
        let count = u32::try_from(count.min(MAX_RECORDS)).unwrap_or(u32::MAX);
        let acquire = Arc::clone(&self.records).acquire_many_owned(count);
        let acquired = tokio::time::timeout(RECORDS_TIMEOUT, acquire).await;
        let acquired = acquired.ok().and_then(Result::ok);
        acquired.ok_or_else(|| overloaded("Too many concurrent list requests. Try again shortly."))
    }

    fn memory(&self, share: &KeyShare, kib: usize) -> Result<Permit, Problem> {
        let kib = u32::try_from(kib).unwrap_or(u32::MAX);
        let memory = self
            .pools(share)
            .map(|pools| Arc::clone(&pools.memory_kib).try_acquire_many_owned(kib));
        memory.collect::<Result<_, _>>().map(Permit).map_err(|_| {
            overloaded(
                "Requests in progress use all the memory reserved for them. Try again shortly.",
            )
        })
    }
}

impl BodyPermit<'_> {
    /// Reserves the missing memory for a body of this length.
    pub(crate) fn grow_to(&mut self, length: usize) -> Result<(), Problem> {
        let kib = length.saturating_mul(MEMORY_PER_BODY_BYTE).max(MIN_REQUEST_BYTES).div_ceil(KIB);
        if kib > self.kib {
            self.permit.0.extend(self.capacity.memory(&self.share, kib - self.kib)?.0);
            self.kib = kib;
        }
        Ok(())
    }

    /// Releases the memory of a body that is discarded.
    pub(crate) fn release(&mut self) {
        self.permit = Permit::default();
        self.kib = 0;
    }

    /// The permit of a complete body, with a slot.
    pub(crate) fn with_slot(mut self) -> Result<Permit, Problem> {
        self.permit.0.extend(self.capacity.slot(&self.share)?.0);
        Ok(self.permit)
    }
}

fn overloaded(detail: &'static str) -> Problem {
    Problem::new(ProblemKind::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use shared::{
        applications::keys::{Scopes, StoredKey},
        clock::Timestamp,
        config::Defaults,
        random::SystemRandom,
    };

    use super::*;
    use crate::edge::auth::Identity;

    fn capacity(slots: &str, keys: &[&str]) -> Capacity {
        let config = Config::from_source(Defaults::LOCAL, |name| match name {
            "API_CONCURRENCY" => Some(slots.to_owned()),
            "API_BODY_BYTES" => Some((64 * 1024 * 1024).to_string()),
            _ => None,
        });
        let access = Access::Keys(keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect());
        Capacity::new(&config.unwrap(), &access)
    }

    fn share(capacity: &Capacity, key: &'static str) -> KeyShare {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-api-key"),
            HeaderValue::from_static(key),
        )]);
        capacity.share_of(&Caller::Full(Identity::ApiKey), &headers)
    }

    fn application(capacity: &Capacity, id: &str) -> KeyShare {
        let key = StoredKey::issue(
            id,
            "name".to_owned().try_into().unwrap(),
            Scopes::parse(&["publish"]).unwrap(),
            None,
            Timestamp::default(),
            &SystemRandom,
        );
        let caller = Caller::with_key(&id.parse().unwrap(), &key.unwrap().0);
        capacity.share_of(&caller, &HeaderMap::new())
    }

    /// All keys of an application are one share, with and without other API keys.
    #[test]
    fn one_application_uses_at_most_half() {
        for keys in [&["one"][..], &["one", "two"]] {
            let capacity = capacity("4", keys);
            let acme = || application(&capacity, "acme");
            let held = [acme(), acme()].map(|share| capacity.slot(&share).unwrap());
            assert_eq!(capacity.slot(&acme()).unwrap_err().kind(), ProblemKind::Overloaded);
            let others = [application(&capacity, "globex"), share(&capacity, "one")];
            let others = others.map(|share| capacity.slot(&share).unwrap());
            drop((held, others));
            assert!(capacity.slot(&acme()).is_ok());
        }
    }

    /// Shares in use outlive any number of other applications, and idle ones do not add up.
    #[test]
    fn idle_applications_are_forgotten() {
        let capacity = capacity("4", &[]);
        let acme = application(&capacity, "acme");
        let held = [capacity.slot(&acme).unwrap(), capacity.slot(&acme).unwrap()];
        drop(acme);
        for number in 0..2 * MAX_IDLE_APPLICATIONS {
            application(&capacity, &format!("customer-{number}"));
        }
        assert!(capacity.applications.lock().unwrap().len() <= MAX_IDLE_APPLICATIONS);
        assert!(capacity.slot(&application(&capacity, "acme")).is_err());
        drop(held);
        assert!(capacity.slot(&application(&capacity, "acme")).is_ok());
    }

    #[test]
    fn one_key_uses_at_most_half() {
        let capacity = capacity("4", &["a", "b"]);
        let (a, b) = (share(&capacity, "a"), share(&capacity, "b"));
        let held = [capacity.slot(&a).unwrap(), capacity.slot(&a).unwrap()];
        assert_eq!(capacity.slot(&a).unwrap_err().kind(), ProblemKind::Overloaded);
        let others = [capacity.slot(&b).unwrap(), capacity.slot(&b).unwrap()];
        drop(others);
        drop(held);
        assert!(capacity.slot(&a).is_ok());
        let large = capacity.body(&a, 10 * 1024 * 1024).unwrap();
        assert!(capacity.body(&a, 1024 * 1024).is_err() && capacity.body(&b, 1024 * 1024).is_ok());
        drop(large);
        assert!(capacity.body(&a, 1024 * 1024).is_ok());
    }

    #[test]
    fn a_single_key_may_use_everything() {
        let capacity = capacity("2", &["a"]);
        let a = share(&capacity, "a");
        let held = [capacity.slot(&a).unwrap(), capacity.slot(&a).unwrap()];
        assert!(capacity.slot(&a).is_err());
        drop(held);
        assert!(
            capacity.body(&a, 20 * 1024 * 1024).is_ok()
                && capacity.body(&a, 22 * 1024 * 1024).is_err()
        );
    }

    #[test]
    fn a_growing_body_reserves_memory_and_releases_it() {
        let capacity = capacity("2", &[]);
        let mut body = capacity.body(&KeyShare::default(), 0).unwrap();
        body.grow_to(20 * 1024 * 1024).unwrap();
        assert!(body.grow_to(30 * 1024 * 1024).is_err());
        let permit = body.with_slot().unwrap();
        assert!(capacity.body(&KeyShare::default(), 2 * 1024 * 1024).is_err());
        drop(permit);
        assert!(capacity.body(&KeyShare::default(), 20 * 1024 * 1024).is_ok());
    }
}
