//! The limiter alone: which attempts get a permit, which wait, and when permits are returned.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::FutureExt;
use shared::{clock::SystemClock, sender::NoLookup};

use super::*;

const LIMIT: usize = 3;

/// The bound of a wait that must end at once.
const SOON: Duration = Duration::from_secs(20);

fn limiter(limit: usize, slots: usize) -> HostLimiter {
    HostLimiter::new(limit, slots, Arc::new(SystemClock), Arc::new(NoLookup))
}

impl HostLimiter {
    /// A permit for a direct webhook.
    async fn acquire(&self, destination: &str) -> Result<HostPermit<'_>, Rejected> {
        self.acquire_at(Place { destination, origin: destination, application: None }).await
    }
}

fn answered(status: u16) -> Answer {
    Answer { status_code: Some(status), ..Answer::default() }
}

/// Makes an attempt that is answered at once.
async fn answers(limiter: &HostLimiter, destination: &str) {
    limiter.acquire(destination).await.unwrap().run(&mut None, 2, async { answered(500) }).await;
}

fn free(limiter: &HostLimiter, scope: &Scope) -> usize {
    let capacity = limiter.capacities.of(scope);
    limiter.limits().get(scope).map_or(capacity, |limit| limit.free.available_permits())
}

/// Names and their addresses.
#[derive(Debug)]
struct Names(HashMap<String, io::Result<IpAddr>>);

#[async_trait]
impl Lookup for Names {
    async fn lookup(&self, host: &str) -> io::Result<Vec<IpAddr>> {
        match self.0.get(host) {
            Some(Ok(address)) => Ok(vec![*address]),
            Some(Err(error)) => Err(error.kind().into()),
            None => std::future::pending().await,
        }
    }
}

#[tokio::test]
async fn requests_are_counted_while_they_are_in_flight() {
    let limiter = limiter(LIMIT, 10);
    let (mut first, second) =
        (limiter.acquire("a").await.unwrap(), limiter.acquire("a").await.unwrap());
    let limit = Arc::clone(&first.destination.limit);
    let latency = || *limit.latency();
    assert_eq!((latency().in_flight, latency().last), (0, None), "a permit is not a request");
    let mut slot = None;
    let mut running = Box::pin(first.run(&mut slot, 2, std::future::pending()));
    assert!((&mut running).now_or_never().is_none());
    assert_eq!((latency().in_flight, latency().last), (1, None));
    drop(running);
    assert_eq!(latency().in_flight, 0);
    assert!(latency().last.is_some(), "an abandoned request has ended");
    drop(first);
    // The test's own reference would keep the limit in use.
    drop(limit);
    drop(second);
    assert!(limiter.limits().is_empty(), "an unused destination is forgotten");
}

#[tokio::test]
async fn a_slot_is_taken_while_an_attempt_waits_or_holds_a_permit() {
    let limiter = limiter(1, 10);
    let taken = || limiter.taken_slots.load(Ordering::Relaxed);
    let permit = limiter.acquire("a").await.unwrap();
    let other = limiter.acquire("b").await.unwrap();
    let mut waiting = Box::pin(limiter.acquire("a"));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((taken(), limiter.capacities.plenty), (3, 8));
    drop(waiting);
    assert_eq!(taken(), 2);
    drop((permit, other));
    assert_eq!(taken(), 0);
    assert!(limiter.limits().is_empty());
}

#[tokio::test]
async fn a_proven_destination_needs_no_unproven_permit() {
    let limiter = limiter(LIMIT, 40);
    answers(&limiter, "http://well.example:80").await;
    let mut held = Vec::new();
    for n in 0..limiter.capacities.unproven {
        held.push(limiter.acquire(&format!("http://new-{n}.example:80")).await.unwrap());
    }
    assert_eq!((limiter.capacities.unproven, free(&limiter, &Scope::Unproven)), (20, 0));
    assert!(limiter.acquire("http://well.example:80").now_or_never().expect("at once").is_ok());
    let late = tokio::time::timeout(SOON, limiter.acquire("http://late.example:80")).await.unwrap();
    assert!(late.is_err(), "no unproven permit is left for a destination that was never seen");
    held.pop();
    assert!(limiter.acquire("http://late.example:80").await.is_ok());
}

#[tokio::test]
async fn a_hanging_request_returns_its_slot_and_its_unproven_permit() {
    let limiter = limiter(LIMIT, 40);
    let slots = Semaphore::new(1);
    let mut slot = Some(slots.acquire().await.unwrap());
    let mut permit = limiter.acquire("http://[::1]:80").await.unwrap();
    let network = Scope::Network(Network::from("::1".parse::<IpAddr>().unwrap()));
    assert_eq!(free(&limiter, &Scope::Unproven), 19);
    let mut running = Box::pin(permit.run(&mut slot, 3000, std::future::pending()));
    let freed = tokio::select! {
        _ = &mut running => unreachable!("it hangs"),
        freed = tokio::time::timeout(SOON, slots.acquire()) => freed,
    };
    assert!(freed.is_ok());
    assert_eq!(
        (free(&limiter, &Scope::Unproven), limiter.taken_slots.load(Ordering::Relaxed)),
        (20, 0)
    );
    assert_eq!(limiter.hanging.available_permits(), limiter.capacities.hanging - 1);
    assert_eq!(limiter.hanging_kib.available_permits(), MAX_HANGING_KIB - 3);
    assert_eq!(
        free(&limiter, &network),
        limiter.capacities.network - 1,
        "its network counts it until it ends"
    );
    assert_eq!(
        limiter.responsiveness_of("http://[::1]:80", limiter.clock.now()),
        Some(Responsiveness::Silent)
    );
    drop(running);
    drop(permit);
    assert_eq!(limiter.hanging.available_permits(), limiter.capacities.hanging);
    assert!(limiter.limits().is_empty());
}

#[tokio::test]
async fn without_a_hanging_permit_a_request_keeps_its_slot() {
    let limiter = limiter(LIMIT, 40);
    let all = limiter
        .hanging
        .clone()
        .try_acquire_many_owned(limiter.capacities.hanging as u32 * 3 / 4)
        .unwrap();
    let permit = limiter.acquire("http://10.0.0.1:80").await.unwrap();
    assert!(permit.hanging_permit(10).is_none(), "the last quarter is reserved for proven ones");
    answers(&limiter, "http://well.example:80").await;
    let proven = limiter.acquire("http://well.example:80").await.unwrap();
    assert!(proven.hanging_permit(10).is_some());
    assert!(
        proven.hanging_permit((MAX_HANGING_KIB + 1) * 1024).is_none(),
        "payload memory is limited"
    );
    assert_eq!(
        limiter.hanging.available_permits(),
        limiter.capacities.hanging / 4,
        "an incomplete permit is returned"
    );
    drop(all);
    assert!(permit.hanging_permit(10).is_some());
}

#[tokio::test]
async fn a_network_gets_half_of_the_hanging_limit() {
    let names = ["a", "b", "c"]
        .map(|name| (format!("{name}.example"), Ok(IpAddr::from([192, 0, 2, name.as_bytes()[0]]))));
    let limiter = HostLimiter::new(LIMIT, 40, Arc::new(SystemClock), Arc::new(Names(names.into())));
    let scope = Scope::Network(Network::from(IpAddr::from([192, 0, 2, 1])));
    let (a, b) = (
        limiter.acquire("http://a.example:80").await.unwrap(),
        limiter.acquire("http://b.example:1").await.unwrap(),
    );
    assert_eq!(
        (limiter.capacities.network, free(&limiter, &scope)),
        (160, 158),
        "names in one network share its limit"
    );
    let all =
        limiter.limits().get(&scope).unwrap().free.clone().try_acquire_many_owned(158).unwrap();
    assert!(
        limiter.acquire("http://c.example:80").now_or_never().expect("it does not wait").is_err()
    );
    assert!(
        limiter.acquire("http://198.51.100.1:80").await.is_ok(),
        "another network has its own limit"
    );
    assert_eq!(free(&limiter, &Scope::Unproven), 18, "a rejected attempt holds no permit");
    drop((a, b, all));
    answers(&limiter, "http://c.example:80").await;
    let proven = limiter.acquire("http://c.example:80").await.unwrap();
    assert_eq!(free(&limiter, &scope), 160, "a proven destination is not counted");
    drop(proven);
}

#[tokio::test]
async fn a_lookup_without_capacity_rejects_and_one_without_a_result_does_not() {
    let names =
        [("busy.example", io::ErrorKind::WouldBlock), ("none.example", io::ErrorKind::NotFound)];
    let names = names.map(|(name, kind)| (name.to_owned(), Err(kind.into())));
    let limiter = HostLimiter::new(LIMIT, 40, Arc::new(SystemClock), Arc::new(Names(names.into())));
    assert!(limiter.acquire("http://busy.example:80").await.is_err());
    assert!(limiter.acquire("http://none.example:80").await.is_ok());
    let silent = tokio::time::timeout(SOON, limiter.acquire("http://silent.example:80")).await;
    assert!(silent.expect("it proceeds").is_ok());
}

#[tokio::test]
async fn silent_destinations_leave_permits_to_those_never_seen() {
    let limiter = limiter(LIMIT, 128);
    let silent: Vec<String> =
        (0..limiter.capacities.unproven).map(|n| format!("http://silent-{n}.example:80")).collect();
    for destination in &silent {
        limiter.responsiveness().insert(destination, Responsiveness::Silent);
    }
    let mut held = Vec::new();
    for destination in &silent[..limiter.capacities.silent] {
        held.push(limiter.acquire(destination).await.unwrap());
    }
    assert_eq!((limiter.capacities.silent, limiter.capacities.unproven), (48, 64));
    assert!(limiter.acquire(&silent[60]).now_or_never().is_none(), "it has to wait");
    assert!(limiter.acquire("http://new.example:80").now_or_never().expect("at once").is_ok());
}

#[tokio::test]
async fn an_attempt_records_the_responsiveness_of_its_destination() {
    let limiter = limiter(LIMIT, 40);
    let ends = async |answer: Answer| {
        let destination = format!("http://{}.example:80", limiter.clock.now().as_millis());
        limiter.acquire(&destination).await.unwrap().run(&mut None, 2, async { answer }).await;
        let responsiveness = limiter.responsiveness_of(&destination, limiter.clock.now());
        tokio::time::sleep(Duration::from_millis(2)).await;
        matches!(responsiveness, Some(Responsiveness::Answered(_)))
    };
    let failed = |kind| Answer { error: Some(kind), ..Answer::default() };
    assert!(
        ends(answered(200)).await
            && ends(answered(503)).await
            && ends(failed(ErrorKind::Network)).await
    );
    assert!(!ends(failed(ErrorKind::Timeout)).await);
    assert!(!ends(Answer { is_our_fault: true, ..failed(ErrorKind::Network) }).await);
    limiter
        .responsiveness()
        .insert("old", Responsiveness::Answered(limiter.clock.now().minus(PROVEN_FOR)));
    assert_eq!(limiter.responsiveness_of("old", limiter.clock.now()), None, "an answer expires");
}

#[test]
fn with_no_more_slots_than_a_batch_every_message_gets_one() {
    for slots in [1, 5, 10] {
        let capacities = Capacities::new(10, slots);
        assert_eq!((capacities.unproven, capacities.silent), (slots, slots));
        assert_eq!(capacities.application, slots);
    }
    let capacities = Capacities::new(32, 128);
    assert_eq!(
        (capacities.unproven, capacities.silent, capacities.network, capacities.hanging),
        (64, 48, 512, 1024)
    );
    assert_eq!((capacities.application, capacities.hanging_application), (32, 256));
    assert_eq!(max_concurrent_attempts(128), 1152);
}

/// What requests do that hang.
fn return_slots(held: &mut [HostPermit<'_>]) {
    for permit in held {
        permit.unproven.clear();
    }
}

/// Many endpoints of one application that never answer leave most of the process to others.
#[tokio::test]
async fn an_application_gets_a_quarter_while_its_endpoints_do_not_answer() {
    let limiter = limiter(LIMIT, 80);
    let endpoint = async |application: &str, n: usize| {
        let (destination, origin) = (format!("{application}/ep-{n}"), "http://10.0.0.1:80");
        let place = Place { destination: &destination, origin, application: Some(application) };
        tokio::time::timeout(SOON, limiter.acquire_at(place)).await.unwrap()
    };
    let capacities = limiter.capacities;
    assert_eq!((capacities.application, capacities.hanging_application), (20, 160));
    let mut held = Vec::new();
    for n in 0..20 {
        held.push(endpoint("hangs", n).await.unwrap());
    }
    assert!(endpoint("hangs", 20).await.is_err(), "a quarter of the slots");
    assert!(endpoint("other", 0).await.is_ok());
    assert!(limiter.acquire("http://direct.example:80").await.is_ok());
    // They hang: they return their slots and keep their places among those that hang.
    for n in 20..160 {
        return_slots(&mut held);
        held.push(endpoint("hangs", n).await.unwrap());
    }
    return_slots(&mut held);
    assert!(endpoint("hangs", 160).await.is_err(), "a quarter of the hanging attempts");
    assert!(endpoint("other", 1).await.is_ok());
    // An endpoint that answers is no part of them.
    let mut permit = held.pop().unwrap();
    permit.run(&mut None, 2, async { answered(200) }).await;
    drop(permit);
    held.push(endpoint("hangs", 160).await.unwrap());
    assert!(endpoint("hangs", 159).await.is_ok(), "it answered");
    drop(held);
    assert!(limiter.limits().is_empty());
}

#[test]
fn hosts_of_destinations() {
    for (destination, expected) in [
        ("https://hooks.example:443", Some("hooks.example")),
        ("http://127.0.0.1:9001", Some("127.0.0.1")),
        ("http://[2001:db8::1]:80", Some("2001:db8::1")),
        ("nonsense", None),
        ("cust-7/ep-aaaaaaaaaaaaaaaa", None),
    ] {
        assert_eq!(host(destination), expected, "{destination}");
    }
}
