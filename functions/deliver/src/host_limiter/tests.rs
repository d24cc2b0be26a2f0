//! Turns by themselves: who gets one, who waits, and what is given back when.

use std::collections::HashMap;

use async_trait::async_trait;
use futures_util::FutureExt;
use shared::{clock::SystemClock, sender::NoLookup};

use super::*;

const LIMIT: usize = 3;

/// What comes at once if it comes.
const SOON: Duration = Duration::from_secs(20);

fn turns(limit: usize, slots: usize) -> Turns {
    Turns::new(limit, slots, Arc::new(SystemClock), Arc::new(NoLookup))
}

fn answered(status: u16) -> Answer {
    Answer { status_code: Some(status), ..Answer::default() }
}

/// An attempt whose request is answered at once.
async fn answers(turns: &Turns, destination: &str) {
    turns.take(destination).await.unwrap().ask(&mut None, 2, async { answered(500) }).await;
}

fn free(turns: &Turns, key: &Key) -> usize {
    turns.gates().get(key).map_or(turns.limits.of(key), |gate| gate.free.available_permits())
}

/// Names, and the addresses that they have.
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
async fn requests_are_counted_while_they_last() {
    let turns = turns(LIMIT, 10);
    let (mut first, second) = (turns.take("a").await.unwrap(), turns.take("a").await.unwrap());
    let gate = Arc::clone(&first.destination.gate);
    let pace = || *gate.pace();
    assert_eq!((pace().asking, pace().took), (0, None), "a turn is not a request");
    let mut slot = None;
    let mut asking = Box::pin(first.ask(&mut slot, 2, std::future::pending()));
    assert!((&mut asking).now_or_never().is_none());
    assert_eq!((pace().asking, pace().took), (1, None));
    drop(asking);
    assert_eq!(pace().asking, 0);
    assert!(pace().took.is_some(), "one that is abandoned is over");
    drop(first);
    // Ours as well, or it would still be in use.
    drop(gate);
    drop(second);
    assert!(turns.gates().is_empty(), "a destination that nobody uses is forgotten");
}

#[tokio::test]
async fn slots_are_taken_while_an_attempt_waits_or_asks() {
    let turns = turns(1, 10);
    let taken = || turns.taken.load(Ordering::Relaxed);
    let turn = turns.take("a").await.unwrap();
    let other = turns.take("b").await.unwrap();
    let mut waiting = Box::pin(turns.take("a"));
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((taken(), turns.limits.plenty), (3, 8));
    drop(waiting);
    assert_eq!(taken(), 2);
    drop((turn, other));
    assert_eq!(taken(), 0);
    assert!(turns.gates().is_empty());
}

#[tokio::test]
async fn destinations_that_answered_need_no_place_in_the_share() {
    let turns = turns(LIMIT, 40);
    answers(&turns, "http://well.example:80").await;
    let mut held = Vec::new();
    for n in 0..turns.limits.share {
        held.push(turns.take(&format!("http://new-{n}.example:80")).await.unwrap());
    }
    assert_eq!((turns.limits.share, free(&turns, &Key::Unproven)), (20, 0));
    assert!(turns.take("http://well.example:80").now_or_never().expect("at once").is_ok());
    let late = tokio::time::timeout(SOON, turns.take("http://late.example:80")).await.unwrap();
    assert!(late.is_err(), "there is no place for one more that was never seen");
    held.pop();
    assert!(turns.take("http://late.example:80").await.is_ok());
}

#[tokio::test]
async fn a_request_that_hangs_gives_its_slot_and_its_place_back() {
    let turns = turns(LIMIT, 40);
    let slots = Semaphore::new(1);
    let mut slot = Some(slots.acquire().await.unwrap());
    let mut turn = turns.take("http://[::1]:80").await.unwrap();
    let network = Key::Network(Network::from("::1".parse::<IpAddr>().unwrap()));
    assert_eq!(free(&turns, &Key::Unproven), 19);
    let mut asking = Box::pin(turn.ask(&mut slot, 3000, std::future::pending()));
    let freed = tokio::select! {
        _ = &mut asking => unreachable!("it hangs"),
        freed = tokio::time::timeout(SOON, slots.acquire()) => freed,
    };
    assert!(freed.is_ok());
    assert_eq!((free(&turns, &Key::Unproven), turns.taken.load(Ordering::Relaxed)), (20, 0));
    assert_eq!(turns.hanging.available_permits(), turns.limits.hanging - 1);
    assert_eq!(turns.hanging_kib.available_permits(), HANGING_KIB - 3);
    assert_eq!(
        free(&turns, &network),
        turns.limits.network - 1,
        "its network counts it until it ends"
    );
    assert_eq!(turns.standing("http://[::1]:80", turns.clock.now()), Some(Standing::Silent));
    drop(asking);
    drop(turn);
    assert_eq!(turns.hanging.available_permits(), turns.limits.hanging);
    assert!(turns.gates().is_empty());
}

#[tokio::test]
async fn without_room_to_hang_a_request_keeps_its_slot() {
    let turns = turns(LIMIT, 40);
    let all =
        turns.hanging.clone().try_acquire_many_owned(turns.limits.hanging as u32 * 3 / 4).unwrap();
    let turn = turns.take("http://10.0.0.1:80").await.unwrap();
    assert!(turn.room_to_hang(10).is_none(), "the last quarter is for those that answered");
    answers(&turns, "http://well.example:80").await;
    let proven = turns.take("http://well.example:80").await.unwrap();
    assert!(proven.room_to_hang(10).is_some());
    assert!(proven.room_to_hang((HANGING_KIB + 1) * 1024).is_none(), "payloads are bounded");
    assert_eq!(
        turns.hanging.available_permits(),
        turns.limits.hanging / 4,
        "what was not enough is given back"
    );
    drop(all);
    assert!(turn.room_to_hang(10).is_some());
}

#[tokio::test]
async fn a_network_has_half_of_what_may_hang() {
    let names = ["a", "b", "c"]
        .map(|name| (format!("{name}.example"), Ok(IpAddr::from([192, 0, 2, name.as_bytes()[0]]))));
    let turns = Turns::new(LIMIT, 40, Arc::new(SystemClock), Arc::new(Names(names.into())));
    let key = Key::Network(Network::from(IpAddr::from([192, 0, 2, 1])));
    let (a, b) = (
        turns.take("http://a.example:80").await.unwrap(),
        turns.take("http://b.example:1").await.unwrap(),
    );
    assert_eq!(
        (turns.limits.network, free(&turns, &key)),
        (160, 158),
        "names in one network share its limit"
    );
    let all = turns.gates().get(&key).unwrap().free.clone().try_acquire_many_owned(158).unwrap();
    assert!(
        turns.take("http://c.example:80").now_or_never().expect("it is not waited for").is_err()
    );
    assert!(
        turns.take("http://198.51.100.1:80").await.is_ok(),
        "another network has a limit of its own"
    );
    assert_eq!(free(&turns, &Key::Unproven), 18, "what got no turn holds no place");
    drop((a, b, all));
    answers(&turns, "http://c.example:80").await;
    let proven = turns.take("http://c.example:80").await.unwrap();
    assert_eq!(free(&turns, &key), 160, "a destination that answered is not counted");
    drop(proven);
}

#[tokio::test]
async fn a_name_that_was_not_looked_up_gets_no_turn_and_one_without_an_answer_does() {
    let names =
        [("busy.example", io::ErrorKind::WouldBlock), ("none.example", io::ErrorKind::NotFound)];
    let names = names.map(|(name, kind)| (name.to_owned(), Err(kind.into())));
    let turns = Turns::new(LIMIT, 40, Arc::new(SystemClock), Arc::new(Names(names.into())));
    assert!(turns.take("http://busy.example:80").await.is_err());
    assert!(turns.take("http://none.example:80").await.is_ok());
    let silent = tokio::time::timeout(SOON, turns.take("http://silent.example:80")).await;
    assert!(silent.expect("it goes ahead").is_ok());
}

#[tokio::test]
async fn what_was_silent_leaves_a_part_of_the_share_to_what_was_never_seen() {
    let turns = turns(LIMIT, 128);
    let silent: Vec<String> =
        (0..turns.limits.share).map(|n| format!("http://silent-{n}.example:80")).collect();
    for destination in &silent {
        turns.standings().insert(destination, Standing::Silent);
    }
    let mut held = Vec::new();
    for destination in &silent[..turns.limits.silent] {
        held.push(turns.take(destination).await.unwrap());
    }
    assert_eq!((turns.limits.silent, turns.limits.share), (48, 64));
    assert!(turns.take(&silent[60]).now_or_never().is_none(), "it would have to wait");
    assert!(turns.take("http://new.example:80").now_or_never().expect("at once").is_ok());
}

#[tokio::test]
async fn what_an_attempt_tells_of_its_destination() {
    let turns = turns(LIMIT, 40);
    let ends = async |answer: Answer| {
        let destination = format!("http://{}.example:80", turns.clock.now().as_millis());
        turns.take(&destination).await.unwrap().ask(&mut None, 2, async { answer }).await;
        let standing = turns.standing(&destination, turns.clock.now());
        tokio::time::sleep(Duration::from_millis(2)).await;
        matches!(standing, Some(Standing::Answered(_)))
    };
    let failed = |kind| Answer { error: Some(kind), ..Answer::default() };
    assert!(
        ends(answered(200)).await
            && ends(answered(503)).await
            && ends(failed(ErrorKind::Network)).await
    );
    assert!(!ends(failed(ErrorKind::Timeout)).await);
    assert!(!ends(Answer { is_our_fault: true, ..failed(ErrorKind::Network) }).await);
    turns.standings().insert("old", Standing::Answered(turns.clock.now().minus(PROVEN_FOR)));
    assert_eq!(turns.standing("old", turns.clock.now()), None, "an answer counts for a while");
}

#[test]
fn with_no_more_slots_than_a_batch_everyone_has_one() {
    for slots in [1, 5, 10] {
        let limits = Limits::new(10, slots);
        assert_eq!((limits.share, limits.silent), (slots, slots));
    }
    let limits = Limits::new(32, 128);
    assert_eq!((limits.share, limits.silent, limits.network, limits.hanging), (64, 48, 512, 1024));
    assert_eq!(most_attempts(128), 1152);
}

#[test]
fn hosts_of_destinations() {
    for (destination, expected) in [
        ("https://hooks.example:443", Some("hooks.example")),
        ("http://127.0.0.1:9001", Some("127.0.0.1")),
        ("http://[2001:db8::1]:80", Some("2001:db8::1")),
        ("nonsense", None),
    ] {
        assert_eq!(host(destination), expected, "{destination}");
    }
}
