//! Lists: newest first, filtered, each webhook exactly once across pages.

use std::collections::BTreeSet;

use shared::{
    id::{ReferenceId, TaskId},
    model::Webhook,
    status::Status,
    store::{DeadLetterFilter, Filter, MAX_READ},
};

use super::{
    Case, Fixture, area,
    fixture::{content, eventually, fresh_reference, fresh_task, new_webhook, same},
    steps::{OURS, answered},
};

pub(super) fn cases() -> Vec<Case> {
    area![
        the_newest_webhook_is_first,
        each_filter_works_alone_and_combined,
        pages_show_each_webhook_once,
        pages_show_each_webhook_once_while_others_are_created,
        a_generated_reference_finds_its_webhook,
        counts_follow_the_statuses,
    ]
}

/// The tasks of all matching webhooks, from all pages. A page may be short or empty and still have
/// a next one.
async fn tasks(fixture: &Fixture, filter: &Filter, limit: usize) -> Vec<TaskId> {
    let (mut found, mut after) = (Vec::new(), None);
    for _ in 0..MAX_READ {
        let page = fixture.store.list(filter, after, limit).await.unwrap();
        assert!(page.items.len() <= limit, "{} items for a limit of {limit}", page.items.len());
        found.extend(page.items.iter().map(|listed| listed.webhook.id.task));
        assert!(page.next.is_none() || page.next != after, "the cursor does not advance");
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
    panic!("the list did not end");
}

/// Creates this many webhooks with this reference, two in each millisecond from the epoch on.
/// Returns them newest first.
async fn create_webhooks(fixture: &Fixture, reference: &ReferenceId, count: i64) -> Vec<Webhook> {
    let mut webhooks = Vec::new();
    for index in 0..count {
        webhooks.push(fixture.created_with(fixture.at(index / 2), reference).await);
    }
    webhooks.sort_by_key(|webhook| std::cmp::Reverse(webhook.id.task));
    webhooks
}

fn tasks_of<'a>(webhooks: impl IntoIterator<Item = &'a Webhook>) -> Vec<TaskId> {
    webhooks.into_iter().map(|webhook| webhook.id.task).collect()
}

/// A list returns records and URLs, newest first. The case has webhooks of the same and of
/// different milliseconds, and lists with and without a reference.
async fn the_newest_webhook_is_first(fixture: Fixture) {
    let reference = fresh_reference();
    let webhooks = create_webhooks(&fixture, &reference, 10).await;
    let by_reference = Filter { reference: Some(reference), ..Filter::default() };
    let by_time = Filter { created_before: Some(fixture.at(5)), ..Filter::default() };
    for filter in [by_reference, by_time] {
        eventually("the list", || async {
            let items = fixture.other.list(&filter, None, 10).await.unwrap().items;
            same(&items.iter().map(|listed| listed.webhook.clone()).collect(), &webhooks)?;
            same(&items.iter().all(|listed| listed.url == content(&listed.webhook).url), &true)
        })
        .await;
    }
}

/// Each filter leaves out other webhooks, alone and combined. The case has two references, three
/// statuses and several creation times.
async fn each_filter_works_alone_and_combined(fixture: Fixture) {
    let (ours, theirs) = (fresh_reference(), fresh_reference());
    let now = fixture.now();
    let mut all = Vec::new();
    for (index, reference) in [&ours, &ours, &ours, &ours, &theirs, &theirs].into_iter().enumerate()
    {
        let mut webhook = fixture.created_with(fixture.at(index as i64 * 10), reference).await;
        if index % 3 > 0 {
            webhook =
                fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, now)).await;
        }
        if index % 3 > 1 {
            webhook = fixture
                .step(&webhook, |rules, webhook| {
                    rules.conclude(webhook, OURS, &answered(200), now, 0.5)
                })
                .await;
        }
        all.push(webhook);
    }
    all.reverse();
    for reference in [None, Some(ours), Some(theirs)] {
        for status in [
            None,
            Some(Status::Pending),
            Some(Status::InProgress),
            Some(Status::Delivered),
            Some(Status::Failed),
        ] {
            for before in [0, 1, 30, 31, 60] {
                let filter = Filter {
                    reference: reference.clone(),
                    status,
                    created_before: Some(fixture.at(before)),
                };
                let expected = tasks_of(all.iter().filter(|webhook| filter.matches(webhook, now)));
                eventually(&format!("{filter:?}"), || async {
                    let mut found = tasks(&fixture, &filter, 2).await;
                    // The store may contain older webhooks.
                    found.retain(|task| task.created_at() >= fixture.epoch);
                    same(&found, &expected)
                })
                .await;
            }
        }
    }
}

/// All pages together contain each webhook once, in order, for every page size. The case has 45
/// webhooks and also a filter that matches one.
async fn pages_show_each_webhook_once(fixture: Fixture) {
    let reference = fresh_reference();
    let webhooks = create_webhooks(&fixture, &reference, 45).await;
    let now = fixture.now();
    let claimed =
        fixture.step(&webhooks[30], |rules, webhook| rules.claim(webhook, OURS, now)).await;
    let filter = Filter { reference: Some(reference), ..Filter::default() };
    for limit in [1, 2, 7, 44, 45, 46, 100] {
        eventually("all pages", || async {
            same(&tasks(&fixture, &filter, limit).await, &tasks_of(&webhooks))
        })
        .await;
        let in_progress = Filter { status: Some(Status::InProgress), ..filter.clone() };
        eventually("the only match", || async {
            same(&tasks(&fixture, &in_progress, limit).await, &vec![claimed.id.task])
        })
        .await;
    }
}

/// A client that reads pages while webhooks are created and changed misses no webhook that existed
/// at the start, and gets none twice. The case creates and claims webhooks between pages.
async fn pages_show_each_webhook_once_while_others_are_created(fixture: Fixture) {
    let reference = fresh_reference();
    let webhooks = create_webhooks(&fixture, &reference, 40).await;
    let filter = Filter { reference: Some(reference.clone()), ..Filter::default() };
    eventually("all are listed", || async {
        same(&tasks(&fixture, &filter, 100).await.len(), &40)
    })
    .await;
    let (mut found, mut after) = (Vec::new(), None);
    for (index, webhook) in webhooks.iter().enumerate() {
        let page = fixture.store.list(&filter, after, 3).await.unwrap();
        found.extend(page.items.iter().map(|listed| listed.webhook.id.task));
        after = page.next;
        if after.is_none() {
            break;
        }
        fixture.created_with(fixture.at(1000 + index as i64), &reference).await;
        fixture.step(webhook, |rules, webhook| rules.claim(webhook, OURS, fixture.now())).await;
    }
    assert_eq!(after, None, "the list did not end");
    assert_eq!(
        found.iter().collect::<BTreeSet<_>>().len(),
        found.len(),
        "a webhook is listed twice"
    );
    let known: BTreeSet<_> = webhooks.iter().map(|webhook| webhook.id.task).collect();
    found.retain(|task| known.contains(task));
    assert_eq!(found, tasks_of(&webhooks));
}

/// A webhook without a reference from the caller has no reference index entry. Its generated
/// reference still finds it, and no other reference does. The case tries the filters that could
/// confuse them.
async fn a_generated_reference_finds_its_webhook(fixture: Fixture) {
    let created_at = fixture.epoch;
    let mut new = new_webhook(created_at, &fresh_reference());
    new.id.reference = ReferenceId::generated(new.id.task);
    new.referenced = false;
    let webhook = fixture.rules.create(new, created_at);
    fixture.store.create(&webhook, &content(&webhook)).await.unwrap();
    let other = fixture.created_with(created_at, &fresh_reference()).await;
    let expect = async |reference: &ReferenceId, status, created_before, expected: Vec<TaskId>| {
        let filter = Filter { reference: Some(reference.clone()), status, created_before };
        eventually(&format!("{filter:?}"), || async {
            same(&tasks(&fixture, &filter, 5).await, &expected)
        })
        .await;
    };
    let task = webhook.id.task;
    expect(&webhook.id.reference, None, None, vec![task]).await;
    expect(&webhook.id.reference, Some(Status::Pending), Some(fixture.at(1)), vec![task]).await;
    expect(&webhook.id.reference, Some(Status::Failed), None, vec![]).await;
    expect(&webhook.id.reference, None, Some(fixture.epoch), vec![]).await;
    expect(&other.id.reference, None, None, vec![other.id.task]).await;
    expect(&ReferenceId::generated(fresh_task(created_at)), None, None, vec![]).await;
    let failed = fixture.step(&webhook, |rules, webhook| {
        rules.give_up(
            webhook,
            shared::transition::GiveUp::Unreadable,
            shared::model::Function::Dlq,
            fixture.now(),
        )
    });
    let archived =
        fixture.step(&failed.await, |rules, webhook| rules.archive(webhook, fixture.now())).await;
    eventually("the dead letter is listed by its reference", || async {
        let letters = fixture
            .store
            .dead_letters(&DeadLetterFilter::reference(Some(&archived.id.reference)), None, 5)
            .await
            .unwrap();
        same(
            &letters.items.iter().map(|letter| letter.webhook.id.task).collect::<Vec<_>>(),
            &vec![task],
        )
    })
    .await;
}

/// The counts follow the statuses, with a short delay. The case compares them before and after
/// transitions and deletes.
async fn counts_follow_the_statuses(fixture: Fixture) {
    let before = fixture.store.counts().await.unwrap();
    let expect = async |added: [u64; 5]| {
        let expected: Vec<u64> =
            before.iter().zip(added).map(|(before, added)| before + added).collect();
        eventually("counts", || async {
            same(&fixture.other.counts().await.unwrap().to_vec(), &expected)
        })
        .await;
    };
    let mut webhooks = Vec::new();
    for code in [None, Some(500), Some(410), Some(200), Some(200)] {
        let webhook = fixture.created().await;
        let now = fixture.now();
        let Some(code) = code else {
            webhooks.push(webhook);
            continue;
        };
        let claimed =
            fixture.step(&webhook, |rules, webhook| rules.claim(webhook, OURS, now)).await;
        webhooks.push(
            fixture
                .step(&claimed, |rules, webhook| {
                    rules.conclude(webhook, OURS, &answered(code), now, 0.5)
                })
                .await,
        );
    }
    expect([1, 0, 1, 2, 1]).await;
    let claimed = fixture
        .step(&webhooks[0], |rules, webhook| rules.claim(webhook, OURS, fixture.now()))
        .await;
    expect([0, 1, 1, 2, 1]).await;
    for id in [&claimed.id, &webhooks[3].id] {
        fixture.store.delete(id).await.unwrap();
    }
    expect([0, 0, 1, 1, 1]).await;
}
