//! The contract of [`SweepState`] on two items.
//!
//! The audit's item has two positions: `m` of the audit that knows messages, and `n` of the
//! versions before applications, which neither read nor change `m`.

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{
    DynamoStore,
    item::{Item, key, number, number_of, text, text_of},
    table::{Change, Condition, Refused},
};
use crate::{
    clock::Timestamp,
    random::write_name,
    store::{AdvanceAuditError, FIRST_OVERLAP, StoreError, SweepReport, SweepState},
};

#[async_trait]
impl SweepState for DynamoStore {
    async fn audited_until(&self) -> Result<Option<Timestamp>, StoreError> {
        let item = self.table.get(key("sweep", "audit"), true).await?;
        Ok(item.as_ref().and_then(read_position))
    }

    async fn advance_audit(
        &self,
        from: Option<Timestamp>,
        to: Timestamp,
    ) -> Result<(), AdvanceAuditError> {
        let condition = match from {
            Some(from) => Condition {
                expression: "m = :from OR (attribute_not_exists(m) AND n = :earlier)",
                values: vec![
                    (":from", number(from.as_millis())),
                    (":earlier", number(from.plus(FIRST_OVERLAP).as_millis())),
                ],
            },
            None => Condition {
                expression: "attribute_not_exists(m) AND attribute_not_exists(n)",
                values: Vec::new(),
            },
        };
        let name = write_name();
        let mut change = Change::default();
        for (name, value) in position_attributes(to, &name) {
            change.put(name, Some(value));
        }
        match self.table.update_if(key("sweep", "audit"), change, condition, false).await {
            Ok(_) => Ok(()),
            Err(Refused::Found(stored)) if text_of(&stored, "w") == Some(&name) => Ok(()),
            Err(Refused::Found(_) | Refused::Missing) => Err(AdvanceAuditError::Moved),
            Err(Refused::Failed(error)) => Err(error.into()),
        }
    }

    async fn report_sweep(&self, report: &SweepReport) -> Result<(), StoreError> {
        self.table.put(report_item(report)).await
    }

    async fn last_sweep(&self) -> Result<Option<SweepReport>, StoreError> {
        let item = self.table.get(key("sweep", "report"), true).await?;
        Ok(item.as_ref().and_then(read_report))
    }
}

/// The attributes of the audit's item. `name` is of this move.
pub(super) fn position_attributes(
    to: Timestamp,
    name: &str,
) -> [(&'static str, AttributeValue); 3] {
    let position = number(to.as_millis());
    [("m", position.clone()), ("n", position), ("w", text(name))]
}

pub(super) fn read_position(item: &Item) -> Option<Timestamp> {
    let position = |name| number_of(item, name).map(Timestamp::from_millis);
    position("m").or_else(|| position("n").map(|earlier| earlier.minus(FIRST_OVERLAP)))
}

pub(super) fn report_item(report: &SweepReport) -> Item {
    let json = serde_json::to_string(report)
        .unwrap_or_else(|_| unreachable!("a report has only string keys"));
    let mut item = key("sweep", "report");
    item.insert("d".to_owned(), text(json));
    item
}

pub(super) fn read_report(item: &Item) -> Option<SweepReport> {
    serde_json::from_str(text_of(item, "d")?).ok()
}
