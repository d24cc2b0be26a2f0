//! The parts of this backend beyond the contract: its indexes, its totals, the purge, and the
//! recovery.

mod applications;
mod message_lists;
mod message_recovery;
mod messages;
mod targets;

use std::{
    path::{Path, PathBuf},
    sync::atomic::{AtomicI64, Ordering},
    time::Duration,
};

use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::{
    id::{ReferenceId, TaskId},
    model::{ClaimId, Content, InvalidRecord, SCHEMA, Webhook},
    retry::Outcome,
    store::{
        Activity, DestinationTotals, DueId, Filter, Lists, SweepReport, SweepState, Totals,
        Webhooks, WriteError, purge::MIN_APART,
    },
    transition::{Report, Rules, testing::new_webhook},
};

/// A clock that stands still until it is set.
#[derive(Debug)]
pub(super) struct SetClock(AtomicI64);

impl SetClock {
    pub(super) fn at(now: Timestamp) -> Self {
        Self(AtomicI64::new(now.as_millis()))
    }
}

#[async_trait]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.load(Ordering::Relaxed) as u64)
    }

    async fn sleep(&self, _wait: Duration) {
        std::future::pending::<()>().await;
    }
}

const BEGIN: Timestamp = Timestamp::from_millis(1_700_000_000_000);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Fixture {
    _folder: TempDir,
    path: PathBuf,
    clock: Arc<SetClock>,
    store: SqliteStore,
    rules: Rules,
}

fn fixture() -> Fixture {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("test.db");
    let clock = Arc::new(SetClock(AtomicI64::new(BEGIN.as_millis())));
    let store = open(&path, &clock);
    Fixture { _folder: folder, path, clock, store, rules: Rules::default() }
}

fn open(path: &Path, clock: &Arc<SetClock>) -> SqliteStore {
    SqliteStore::new(Database::open(path).unwrap(), Arc::clone(clock) as Arc<dyn Clock>)
}

fn content() -> Content {
    let payload = serde_json::value::RawValue::from_string(r#"{"a": 1.0}"#.to_owned()).unwrap();
    Content {
        url: "https://example.com/x".to_owned(),
        headers: vec![("x-a".to_owned(), "b".to_owned())],
        payload,
    }
}

fn report(error: Option<crate::model::ErrorKind>) -> Report {
    let outcome = Outcome { error, status_code: None, retry_after: None };
    Report { outcome, duration: Duration::ZERO, message: None, response_excerpt: None }
}

impl Fixture {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn advance(&self, by: Duration) {
        self.clock.0.fetch_add(by.as_millis() as i64, Ordering::Relaxed);
    }

    fn task(&self, n: u16) -> TaskId {
        let mut random = [0; 10];
        random[8..].copy_from_slice(&n.to_be_bytes());
        TaskId::mint(self.now(), random)
    }

    /// Accepts webhook number `n` of this millisecond.
    async fn accept(&self, n: u16) -> Webhook {
        let webhook = self.rules.create(new_webhook(self.task(n)), self.now());
        self.store.create(&webhook, &content()).await.unwrap();
        webhook
    }

    async fn claim(&self, webhook: &Webhook) -> Webhook {
        let claimed = self.rules.claim(webhook, ClaimId(7), self.now()).unwrap();
        self.store.write(webhook, &claimed).await.unwrap();
        claimed
    }

    async fn conclude(&self, claimed: &Webhook, error: Option<crate::model::ErrorKind>) -> Webhook {
        let after =
            self.rules.conclude(claimed, ClaimId(7), &report(error), self.now(), 0.5).unwrap();
        self.store.write(claimed, &after).await.unwrap();
        after
    }

    async fn deliver(&self, n: u16) -> Webhook {
        let claimed = self.claim(&self.accept(n).await).await;
        self.conclude(&claimed, None).await
    }

    async fn get(&self, webhook: &Webhook) -> Webhook {
        self.store.get(&webhook.id).await.unwrap().unwrap()
    }

    fn raw(&self) -> Connection {
        Connection::open(&self.path).unwrap()
    }

    fn rows(&self, table: &str) -> i64 {
        self.raw()
            .query_row(&format!("SELECT count(*) FROM {table}"), (), |row| row.get(0))
            .unwrap()
    }

    /// Checks that the totals equal a count of the rows.
    async fn check_totals(&self) -> [u64; 5] {
        let counts = self.store.counts().await.unwrap();
        for (status, count) in counts.iter().enumerate() {
            assert_eq!(
                self.rows(&format!("webhooks WHERE status = {status}")),
                *count as i64,
                "status {status}"
            );
        }
        assert_eq!(self.rows("webhooks"), self.rows("contents"));
        counts
    }
}

/// Each listing query uses the right index and bounds, and never sorts. Tested with SQLite's query
/// plan.
#[tokio::test]
async fn every_list_walks_its_index() {
    let fixture = fixture();
    for (sql, index) in lists::plans::all() {
        let connection = fixture.raw();
        let mut statement = connection.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
        // No values, because the plan must not depend on them.
        let plan: Vec<String> =
            statement.raw_query().mapped(|row| row.get(3)).map(Result::unwrap).collect();
        let plan = plan.join("; ");
        assert!(
            plan.contains(index) && !plan.contains("SCAN") && !plan.contains("B-TREE"),
            "{sql}\n{plan}"
        );
    }
}

#[tokio::test]
async fn totals_are_exact_through_a_life() {
    let fixture = fixture();
    let failing = fixture.claim(&fixture.accept(1).await).await;
    fixture.deliver(2).await;
    fixture.accept(3).await;
    assert_eq!(fixture.check_totals().await, [1, 1, 0, 1, 0]);
    let failed = fixture.conclude(&failing, Some(crate::model::ErrorKind::RefusedAddress)).await;
    assert_eq!(fixture.check_totals().await, [1, 0, 1, 1, 0]);
    fixture.store.delete(&failed.id).await.unwrap();
    assert_eq!(fixture.check_totals().await, [1, 0, 0, 1, 0]);
}

/// A write of a record that is stored already succeeds and changes nothing, because the first try
/// took effect.
#[tokio::test]
async fn a_write_that_is_tried_again_succeeds_once() {
    let fixture = fixture();
    let webhook = fixture.accept(1).await;
    let claimed = fixture.claim(&webhook).await;
    assert_eq!(fixture.store.write_and_open(&webhook, &claimed).await.unwrap(), content());
    assert_eq!(fixture.check_totals().await, [0, 1, 0, 0, 0]);
    let other = fixture.rules.claim(&webhook, ClaimId(8), fixture.now()).unwrap();
    let error = fixture.store.write(&webhook, &other).await.unwrap_err();
    assert!(matches!(error, WriteError::Conflict(stored) if *stored == claimed));
}

/// Of twenty workers that claim the same webhook, one wins. Tested twenty times with two handles on
/// the file, as of two processes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_claims_through_two_handles_one_wins() {
    let fixture = fixture();
    let stores = [
        Arc::new(open(&fixture.path, &fixture.clock)),
        Arc::new(open(&fixture.path, &fixture.clock)),
    ];
    for round in 0..20 {
        let webhook = fixture.accept(round).await;
        let mut claims = Vec::new();
        for claim in 0..20 {
            let (store, webhook) = (Arc::clone(&stores[claim % 2]), webhook.clone());
            let claimed =
                fixture.rules.claim(&webhook, ClaimId(claim as u64), fixture.now()).unwrap();
            claims.push(tokio::spawn(async move { store.write(&webhook, &claimed).await.is_ok() }));
        }
        let mut won = 0;
        for claim in claims {
            won += usize::from(claim.await.unwrap());
        }
        assert_eq!(won, 1);
    }
}

/// 250 webhooks expire, 10 do not. Readers miss them at once. Each purge deletes a hundred from the
/// disk, once two looks a minute apart have found them expired.
#[tokio::test]
async fn what_expired_goes_a_little_at_a_time() {
    let fixture = fixture();
    for n in 0..250 {
        fixture.deliver(n).await;
    }
    fixture.advance(DAY * 29);
    for n in 0..10 {
        fixture.deliver(n).await;
    }
    fixture.advance(DAY * 2);
    let page = fixture.store.list(&Filter::default(), None, 1000).await.unwrap();
    assert_eq!((page.items.len(), page.next), (10, None));
    fixture.accept(100).await;
    assert_eq!(fixture.check_totals().await[3], 260);
    fixture.advance(MIN_APART);
    let mut left = Vec::new();
    for n in 0..4 {
        fixture.accept(n).await;
        left.push(fixture.check_totals().await[3]);
        fixture.advance(Duration::from_millis(50));
    }
    assert_eq!(left, [160, 60, 10, 10]);
}

#[tokio::test]
async fn a_purge_is_not_part_of_every_write() {
    let fixture = fixture();
    fixture.deliver(1).await;
    fixture.advance(DAY * 30);
    fixture.accept(2).await;
    fixture.advance(Duration::from_millis(59_999));
    fixture.accept(3).await;
    assert_eq!(
        fixture.check_totals().await,
        [2, 0, 0, 1, 0],
        "expired, and only one look a minute ago or more has seen it"
    );
    fixture.advance(Duration::from_millis(999));
    fixture.accept(4).await;
    assert_eq!(
        fixture.check_totals().await,
        [3, 0, 0, 1, 0],
        "the last purge was less than a second ago"
    );
    fixture.advance(Duration::from_millis(1));
    fixture.accept(5).await;
    assert_eq!(fixture.check_totals().await, [4, 0, 0, 0, 0]);
}

#[tokio::test]
async fn the_id_of_what_expired_is_free_and_its_writes_are_refused() {
    let fixture = fixture();
    let delivered = fixture.deliver(1).await;
    let task = delivered.id.task;
    let resent = fixture.rules.resend(&delivered, fixture.now()).unwrap();
    fixture.advance(DAY * 30);
    assert!(matches!(fixture.store.write(&delivered, &resent).await, Err(WriteError::Missing)));
    assert_eq!(fixture.store.get(&delivered.id).await.unwrap(), None);
    let again = fixture.rules.create(new_webhook(task), fixture.now());
    fixture.store.create(&again, &content()).await.unwrap();
    assert_eq!(fixture.get(&again).await, again);
    assert_eq!(fixture.check_totals().await, [1, 0, 0, 0, 0]);
}

/// A record of a newer version is an error for a read by ID, left out of lists, and never changed.
#[tokio::test]
async fn a_newer_record_harms_nobody_else() {
    let fixture = fixture();
    let (newer, other) = (fixture.accept(1).await, fixture.accept(2).await);
    let json =
        Webhook { schema: SCHEMA + 1, revision: 2, due_at: Some(BEGIN), ..newer.clone() }.to_json();
    let sql = "UPDATE webhooks SET record = ?1, revision = 2, due_at = 0 WHERE record = ?2";
    assert_eq!(fixture.raw().execute(sql, (&json, newer.to_json())).unwrap(), 1);
    for error in [
        fixture.store.get(&newer.id).await.unwrap_err(),
        fixture.store.open(&newer.id).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, StoreError::Unreadable { source: InvalidRecord::TooNew { .. }, .. }),
            "{error}"
        );
    }
    let claimed = fixture.rules.claim(&newer, ClaimId(1), fixture.now()).unwrap();
    let error = fixture.store.write(&newer, &claimed).await.unwrap_err();
    assert!(matches!(error, WriteError::Store(StoreError::Unreadable { .. })), "{error}");
    fixture.store.recover_in_flight(fixture.now(), Some(vec![])).await.unwrap();
    let stored: String = fixture
        .raw()
        .query_row("SELECT record FROM webhooks WHERE revision = 2 AND due_at = 0", (), |row| {
            row.get(0)
        })
        .unwrap();
    assert_eq!(stored, json);
    let page = fixture.store.list(&Filter::default(), None, 10).await.unwrap();
    assert_eq!(page.items.iter().map(|item| &item.webhook.id).collect::<Vec<_>>(), [&other.id]);
    let due = fixture.store.due(BEGIN, None, 10).await.unwrap().entries;
    assert_eq!(
        due.iter().map(|entry| entry.id.webhook().unwrap()).collect::<Vec<_>>(),
        [&newer.id, &other.id],
        "a reader finds it as it is"
    );
}

/// A generated reference ID finds its one webhook, and also those whose callers copied it.
#[tokio::test]
async fn a_generated_reference_is_found_without_an_index_entry() {
    let fixture = fixture();
    let generated = ReferenceId::generated(fixture.task(5));
    for n in [3, 5, 9] {
        let mut new = new_webhook(fixture.task(n));
        (new.id.reference, new.referenced) = (generated.clone(), n != 5);
        fixture.store.create(&fixture.rules.create(new, fixture.now()), &content()).await.unwrap();
    }
    let filter = Filter { reference: Some(generated), ..Filter::default() };
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = fixture.store.list(&filter, after, 1).await.unwrap();
        found.extend(page.items.iter().map(|item| item.webhook.id.task));
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    assert_eq!(found, [9, 5, 3].map(|n| fixture.task(n)));
}

/// All 1,203 attempts in flight at the crash of a stack are due, and workers can claim them again.
#[tokio::test]
async fn a_recovery_ends_leases() {
    let fixture = fixture();
    for n in 0..1203 {
        fixture.claim(&fixture.accept(n).await).await;
    }
    fixture.deliver(2000).await;
    fixture.advance(Duration::from_secs(1));
    let now = fixture.now();
    let taken = fixture.store.recover_in_flight(now, None).await.unwrap();
    assert_eq!(taken, RecoveredInFlight { leases: 1203, unsent: 0 });
    assert_eq!(fixture.rows(&format!("webhooks WHERE due_at = {}", now.as_millis())), 1203);
    let entry = &fixture.store.due(now, None, 1).await.unwrap().entries[0];
    let webhook = fixture.store.get(entry.id.webhook().unwrap()).await.unwrap().unwrap();
    let again = fixture.rules.claim(&webhook, ClaimId(9), now).unwrap();
    assert_eq!((again.attempt_count, again.budget.interrupted), (2, 1));
    fixture.store.write(&webhook, &again).await.unwrap();
    fixture.check_totals().await;
}

/// A webhook without a message is due as soon as a worker can work on it. One with a message, or
/// that waits correctly, does not change.
#[tokio::test]
async fn a_recovery_finds_what_no_message_leads_to() {
    let fixture = fixture();
    let unsent = fixture.accept(1).await;
    let sent = fixture.accept(2).await;
    let network = Some(crate::model::ErrorKind::Network);
    let relayed = fixture.conclude(&fixture.claim(&fixture.accept(3).await).await, network).await;
    let relayed_and_sent =
        fixture.conclude(&fixture.claim(&fixture.accept(4).await).await, network).await;
    let mut scheduled = new_webhook(fixture.task(5));
    scheduled.deliver_at = Some(fixture.now().plus(DAY));
    let scheduled = fixture.rules.create(scheduled, fixture.now());
    fixture.store.create(&scheduled, &content()).await.unwrap();
    let given_up = fixture.claim(&fixture.accept(6).await).await;
    let mut report = report(Some(crate::model::ErrorKind::HttpStatus));
    report.outcome.status_code = Some(410);
    let failed =
        fixture.rules.conclude(&given_up, ClaimId(7), &report, fixture.now(), 0.5).unwrap();
    fixture.store.write(&given_up, &failed).await.unwrap();
    let delivered = fixture.deliver(7).await;

    fixture.advance(Duration::from_secs(1));
    let now = fixture.now();
    let messages = [&relayed_and_sent, &sent].map(|sent| DueId::Webhook(sent.id.clone())).to_vec();
    let taken = fixture.store.recover_in_flight(now, Some(messages.clone())).await.unwrap();
    assert_eq!(taken, RecoveredInFlight { leases: 0, unsent: 3 });
    assert_eq!(fixture.get(&unsent).await.due_at, Some(now));
    assert_eq!(fixture.get(&relayed).await.due_at, relayed.allowed_at);
    assert_eq!(fixture.get(&failed).await.due_at, Some(now));
    for left_alone in [sent, relayed_and_sent, scheduled, delivered] {
        assert_eq!(fixture.get(&left_alone).await, left_alone);
    }
    let again = fixture.store.recover_in_flight(now, Some(messages)).await.unwrap();
    assert_eq!(again, RecoveredInFlight::default(), "done again, it changes nothing");
}

#[tokio::test]
async fn worst_destinations_come_first() {
    let fixture = fixture();
    let hour = Duration::from_secs(3600);
    for (destination, failed) in [("https://a:443", 1), ("https://b:443", 5)] {
        let seen = crate::store::DestinationActivity { failed, waiting: 1, ..Default::default() };
        let activity = Activity {
            destinations: [(destination.to_owned(), seen)].into(),
            ..Activity::default()
        };
        fixture.store.add_activity(&activity, BEGIN).await.unwrap();
        fixture.store.add_activity(&activity, BEGIN.plus(hour)).await.unwrap();
    }
    let totals = fixture.store.destinations(BEGIN.plus(hour)).await.unwrap();
    let seen = |totals: &[DestinationTotals]| {
        totals.iter().map(|t| (t.activity.failed, t.activity.waiting)).collect::<Vec<_>>()
    };
    assert_eq!(seen(&totals), [(10, 2), (2, 2)]);
    assert_eq!(
        seen(&fixture.store.destinations(BEGIN.plus(hour * 2)).await.unwrap()),
        [(5, 2), (1, 2)]
    );
    assert!(fixture.store.destinations(BEGIN.plus(hour * 3)).await.unwrap().is_empty());
}

/// A report of the sweep that this version cannot read counts as none, and the next one replaces
/// it. Tested with reports of another shape, written behind the store's back.
#[tokio::test]
async fn an_unreadable_report_of_the_sweep_counts_as_none() {
    let fixture = fixture();
    let report = SweepReport { ran_at: fixture.now(), ..SweepReport::default() };
    let other = Connection::open(&fixture.path).unwrap();
    for unreadable in ["", r#"{"another":"shape"}"#] {
        other.execute("INSERT OR REPLACE INTO sweep VALUES ('report', ?1)", [unreadable]).unwrap();
        assert_eq!(fixture.store.last_sweep().await.unwrap(), None, "{unreadable}");
        fixture.store.report_sweep(&report).await.unwrap();
        assert_eq!(fixture.store.last_sweep().await.unwrap().as_ref(), Some(&report));
    }
}
