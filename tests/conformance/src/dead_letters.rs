//! Dead letters: the latest archived first, listed while they are dead letters.

use std::time::Duration;

use shared::{
    clock::Timestamp,
    id::{ReferenceId, TaskId},
    model::Webhook,
    store::{DeadLetterFilter, MAX_READ},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        the_latest_archived_letter_is_first,
        the_list_filters_by_reference,
        pages_show_each_letter_once,
        a_resent_or_deleted_letter_leaves_the_list,
    ]
}

/// Creates a dead letter that was archived at this time.
async fn letter(fixture: &Fixture, reference: &ReferenceId, archived_at: Timestamp) -> Webhook {
    let now = fixture.now();
    let webhook = fixture.created_with(now, reference).await;
    let claimed = fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    let failed = fixture
        .step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &answered(410), now, 0.5))
        .await;
    fixture.step(&failed, |rules, webhook| rules.archive(webhook, archived_at)).await
}

/// The tasks of all dead letters, from all pages.
async fn tasks(fixture: &Fixture, reference: Option<&ReferenceId>, limit: usize) -> Vec<TaskId> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..MAX_READ {
        let page = fixture
            .other
            .dead_letters(&DeadLetterFilter::reference(reference), after, limit)
            .await
            .unwrap();
        assert!(page.items.len() <= limit);
        found.extend(page.items.iter().map(|letter| letter.webhook.id.task));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
    panic!("the list did not end");
}

/// This many seconds before now. Archived webhooks expire by the clock, so they are archived in the
/// recent past.
fn ago(fixture: &Fixture, seconds: u64) -> Timestamp {
    fixture.now().minus(Duration::from_secs(seconds))
}

/// The list is ordered by archive time, not by creation time, and contains records and URLs. The
/// case archives letters in a different order than it creates them.
async fn the_latest_archived_letter_is_first(fixture: Fixture) {
    let reference = fresh_reference();
    let mut letters = Vec::new();
    for seconds in [30, 10, 20] {
        letters.push(letter(&fixture, &reference, ago(&fixture, seconds)).await);
    }
    letters.sort_by_key(|letter| std::cmp::Reverse(letter.archived_at));
    for reference in [Some(&reference), None] {
        eventually("the order", || async {
            let items = fixture
                .store
                .dead_letters(&DeadLetterFilter::reference(reference), None, 100)
                .await
                .unwrap()
                .items;
            let own = items
                .iter()
                .filter(|item| letters.iter().any(|letter| letter.id == item.webhook.id));
            same(&own.clone().map(|item| item.webhook.clone()).collect(), &letters)?;
            same(&own.clone().all(|item| item.url == content(&item.webhook).url), &true)
        })
        .await;
    }
}

/// The dead letters of other references are left out. The case alternates between two references.
async fn the_list_filters_by_reference(fixture: Fixture) {
    let (ours, theirs) = (fresh_reference(), fresh_reference());
    let mut expected = Vec::new();
    for seconds in 0..6 {
        let archived_at = ago(&fixture, 60 - seconds);
        let letter =
            letter(&fixture, if seconds % 2 == 0 { &ours } else { &theirs }, archived_at).await;
        if seconds % 2 == 0 {
            expected.insert(0, letter.id.task);
        }
    }
    eventually("own letters", || async { same(&tasks(&fixture, Some(&ours), 2).await, &expected) })
        .await;
    eventually("no letters", || async {
        same(&tasks(&fixture, Some(&fresh_reference()), 2).await, &vec![])
    })
    .await;
}

/// All pages together contain each letter once, including letters archived in the same millisecond.
/// The case uses several page sizes.
async fn pages_show_each_letter_once(fixture: Fixture) {
    let reference = fresh_reference();
    let base = ago(&fixture, 60);
    let mut letters = Vec::new();
    for index in 0..17 {
        letters
            .push(letter(&fixture, &reference, base.plus(Duration::from_millis(index / 4))).await);
    }
    letters.sort_by_key(|letter| std::cmp::Reverse((letter.archived_at, letter.id.task)));
    let expected: Vec<TaskId> = letters.iter().map(|letter| letter.id.task).collect();
    for limit in [1, 3, 16, 17, 18] {
        eventually("all pages", || async {
            same(&tasks(&fixture, Some(&reference), limit).await, &expected)?;
            let all = tasks(&fixture, None, limit).await;
            same(&all.into_iter().filter(|task| expected.contains(task)).collect(), &expected)
        })
        .await;
    }
}

/// A dead letter leaves the list when it is resent, redriven or deleted. It returns when it fails
/// and is archived again.
async fn a_resent_or_deleted_letter_leaves_the_list(fixture: Fixture) {
    let reference = fresh_reference();
    let [redriven, resent, deleted] = [
        letter(&fixture, &reference, ago(&fixture, 3)).await,
        letter(&fixture, &reference, ago(&fixture, 2)).await,
        letter(&fixture, &reference, ago(&fixture, 1)).await,
    ];
    let now = fixture.now();
    let again = fixture.step(&redriven, |rules, webhook| rules.redrive(webhook, now)).await;
    fixture.step(&resent, |rules, webhook| rules.resend(webhook, now)).await;
    fixture.store.delete(&deleted.id).await.unwrap();
    eventually("no letters", || async {
        same(&tasks(&fixture, Some(&reference), 10).await, &vec![])
    })
    .await;
    let claimed = fixture.step(&again, |rules, webhook| rules.claim(webhook, OURS, now)).await;
    let failed = fixture
        .step(&claimed, |rules, webhook| rules.conclude(webhook, OURS, &answered(410), now, 0.5))
        .await;
    eventually("no letters before the archive", || async {
        same(&tasks(&fixture, Some(&reference), 10).await, &vec![])
    })
    .await;
    fixture.step(&failed, |rules, webhook| rules.archive(webhook, now)).await;
    eventually("the letter is listed again", || async {
        same(&tasks(&fixture, Some(&reference), 10).await, &vec![redriven.id.task])
    })
    .await;
}
