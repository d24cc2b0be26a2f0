//! Records for tests of other modules and of the backends.

use super::{NewWebhook, Rules};
use crate::{
    clock::Timestamp,
    id::{TaskId, WebhookId},
    model::Webhook,
};

/// A new webhook with the reference ID `order-7` and no optional field.
pub fn new_webhook(task: TaskId) -> NewWebhook {
    let Ok(reference) = "order-7".parse() else { unreachable!("it is a reference id") };
    NewWebhook {
        id: WebhookId::direct(reference, task),
        referenced: true,
        correlation_id: "cor-1".to_owned(),
        trace: None,
        event_type: None,
        destination: "https://example.com:443".to_owned(),
        path_hash: None,
        retry: None,
        deliver_at: None,
    }
}

/// A webhook that was created `now` with the default rules.
pub fn webhook(now: Timestamp) -> Webhook {
    Rules::default().create(new_webhook(TaskId::mint(now, [1; 10])), now)
}
