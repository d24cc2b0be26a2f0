//! Expiry: on time for every reader, and postponed by a resend.

use std::time::Duration;

use shared::{
    model::Webhook,
    store::{DeadLetterFilter, DeleteError, Filter, SweepReport},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, same},
    steps::{Kind, OURS},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        a_finished_webhook_expires_on_time,
        an_unfinished_webhook_never_expires,
        a_resend_extends_record_and_content,
        a_clock_briefly_ahead_deletes_nothing,
    ]
}

/// Whether get, open, list and dead letters return it. Fails if they disagree.
async fn is_shown(fixture: &Fixture, webhook: &Webhook) -> Result<bool, String> {
    let id = &webhook.id;
    let shown = fixture.store.get(id).await.unwrap().is_some();
    assert_eq!(fixture.other.open(id).await.unwrap().is_some(), shown, "get and open agree");
    let reference = Some(id.reference.clone());
    for filter in [Filter { reference: reference.clone(), ..Filter::default() }, Filter::default()]
    {
        let items = fixture.store.list(&filter, None, 100).await.unwrap().items;
        same(&items.iter().any(|listed| listed.webhook.id == *id), &shown)?;
    }
    for reference in [reference.as_ref(), None] {
        let items = fixture
            .store
            .dead_letters(&DeadLetterFilter::reference(reference), None, 100)
            .await
            .unwrap()
            .items;
        same(
            &items.iter().any(|letter| letter.webhook.id == *id),
            &(shown && webhook.is_dead_letter()),
        )?;
    }
    Ok(shown)
}

/// A finished webhook is readable until it expires and never after, even while its bytes are still
/// stored. The case sets the clock to a minute before the expiry, and then past it.
async fn a_finished_webhook_expires_on_time(fixture: Fixture) {
    let webhooks = [Kind::Delivered.make(&fixture).await, Kind::Archived.make(&fixture).await];
    fixture
        .clock
        .advance(fixture.rules.limits.retention.checked_sub(Duration::from_secs(60)).unwrap());
    for webhook in &webhooks {
        let shown = eventually("all readers agree", || is_shown(&fixture, webhook)).await;
        assert!(shown, "{} is still there", webhook.status);
    }
    fixture.clock.advance(Duration::from_secs(61));
    for webhook in &webhooks {
        let shown = eventually("all readers agree", || is_shown(&fixture, webhook)).await;
        assert!(!shown, "{} is gone", webhook.status);
        assert!(matches!(fixture.store.delete(&webhook.id).await, Err(DeleteError::Missing)));
    }
}

/// An unfinished webhook never expires. The case reads it a year later.
async fn an_unfinished_webhook_never_expires(fixture: Fixture) {
    let mut webhooks = Vec::new();
    for kind in [
        Kind::Pending,
        Kind::PendingHeld,
        Kind::Scheduled,
        Kind::LeaseOver,
        Kind::RetryingAllowed,
        Kind::Failed,
    ] {
        webhooks.push(kind.make(&fixture).await);
    }
    fixture.clock.advance(Duration::from_secs(365 * 24 * 3600));
    for webhook in webhooks {
        let stored = fixture.store.open(&webhook.id).await.unwrap();
        assert_eq!(stored, Some((webhook.clone(), content(&webhook))), "{}", webhook.status);
    }
}

/// A resend shortly before the expiry keeps record and content. The case passes the old expiry and
/// then claims the webhook.
async fn a_resend_extends_record_and_content(fixture: Fixture) {
    for kind in [Kind::Delivered, Kind::Archived] {
        let finished = kind.make(&fixture).await;
        fixture
            .clock
            .advance(fixture.rules.limits.retention.checked_sub(Duration::from_secs(60)).unwrap());
        let resent =
            fixture.step(&finished, |rules, webhook| rules.resend(webhook, fixture.now())).await;
        fixture.clock.advance(Duration::from_secs(120));
        assert_eq!(fixture.other.get(&resent.id).await.unwrap(), Some(resent.clone()));
        let claimed = fixture.rules.claim(&resent, OURS, fixture.now()).unwrap();
        assert_eq!(
            fixture.store.write_and_open(&resent, &claimed).await.unwrap(),
            content(&resent)
        );
    }
}

/// While a clock is ahead for less than a minute, webhooks are expired for readers, but no write
/// and no maintenance deletes them. The case has a delivered webhook and a dead letter, over both
/// handles. Both are readable once the clock is right again.
async fn a_clock_briefly_ahead_deletes_nothing(fixture: Fixture) {
    let webhooks = [Kind::Delivered.make(&fixture).await, Kind::Archived.make(&fixture).await];
    let report = SweepReport { ran_at: fixture.now(), ..SweepReport::default() };
    let until = fixture.now().plus(Duration::from_secs(3600));
    let run_maintenance = async || {
        for store in [&fixture.store, &fixture.other] {
            store.report_sweep(&report).await.unwrap();
            store.maintain(fixture.now(), until).await.unwrap();
        }
        fixture.created().await;
    };
    run_maintenance().await;
    fixture.clock.advance(Duration::from_secs(120));
    run_maintenance().await;
    fixture.clock.set_ahead(Duration::from_secs(40 * 24 * 3600));
    for _ in 0..4 {
        run_maintenance().await;
        assert_eq!(fixture.store.get(&webhooks[0].id).await.unwrap(), None, "hidden");
        fixture.clock.advance(Duration::from_secs(14));
    }
    fixture.clock.set_ahead(Duration::ZERO);
    for _ in 0..2 {
        run_maintenance().await;
        for webhook in &webhooks {
            assert_eq!(
                fixture.other.open(&webhook.id).await.unwrap(),
                Some((webhook.clone(), content(webhook)))
            );
            let shown = eventually("all readers agree", || is_shown(&fixture, webhook)).await;
            assert!(shown, "{}", webhook.status);
        }
        fixture.clock.advance(Duration::from_secs(120));
    }
}
