//! What the sweep keeps between its runs, and the sign of life.

use super::{
    item::{key, number, number_of, text, text_of},
    table::{Change, Condition, Refused, Table},
};
use crate::{
    clock::Timestamp,
    random::{Random, SystemRandom},
    store::{StoreError, SweepReport},
};

/// A write, so that missing rights and a table that is being made show. One write unit.
pub(super) async fn ping(table: &Table) -> Result<(), StoreError> {
    table.put(key("ping", "-")).await
}

pub(super) async fn audited_until(table: &Table) -> Result<Option<Timestamp>, StoreError> {
    let item = table.get(key("sweep", "audit"), true).await?;
    Ok(item.and_then(|item| number_of(&item, "n")).map(Timestamp::from_millis))
}

/// Each move has a name, so that one that the client sent twice is told from another run's to the
/// same place.
pub(super) async fn advance_audit(
    table: &Table,
    from: Option<Timestamp>,
    to: Timestamp,
) -> Result<bool, StoreError> {
    let condition = match from {
        Some(from) => {
            Condition { expression: "n = :from", values: vec![(":from", number(from.as_millis()))] }
        }
        None => Condition { expression: "attribute_not_exists(n)", values: Vec::new() },
    };
    let name = format!("{:016x}", SystemRandom.next_u64());
    let mut change = Change::default();
    change.put("n", Some(number(to.as_millis())));
    change.put("w", Some(text(&name)));
    match table.update_if(key("sweep", "audit"), change, condition, false).await {
        Ok(_) => Ok(true),
        Err(Refused::Found(stored)) => Ok(text_of(&stored, "w") == Some(&name)),
        Err(Refused::Missing) => Ok(false),
        Err(Refused::Failed(error)) => Err(error),
    }
}

pub(super) async fn report(table: &Table, report: &SweepReport) -> Result<(), StoreError> {
    let json = serde_json::to_string(report)
        .unwrap_or_else(|_| unreachable!("a report has only string keys"));
    let mut item = key("sweep", "report");
    item.insert("d".to_owned(), text(json));
    table.put(item).await
}

/// What another version wrote and this one cannot read is as if the sweep had not run yet; it will
/// within the minute.
pub(super) async fn last(table: &Table) -> Result<Option<SweepReport>, StoreError> {
    let item = table.get(key("sweep", "report"), true).await?;
    Ok(item.and_then(|item| serde_json::from_str(text_of(&item, "d")?).ok()))
}
