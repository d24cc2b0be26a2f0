//! The handlers, a file for each resource or action.

pub(crate) mod application_keys;
pub(crate) mod application_put;
pub(crate) mod applications;
pub(crate) mod dead_letter_redrive;
pub(crate) mod dead_letters;
pub(crate) mod destinations;
pub(crate) mod endpoint_change;
pub(crate) mod endpoint_create;
pub(crate) mod endpoint_secret;
pub(crate) mod endpoints;
pub(crate) mod health;
pub(crate) mod metrics;
pub(crate) mod overview;
pub(crate) mod page;
pub(crate) mod spec;
pub(crate) mod test_webhook;
pub(crate) mod webhook_cleanup;
pub(crate) mod webhook_create;
pub(crate) mod webhook_create_batch;
pub(crate) mod webhook_explain;
pub(crate) mod webhook_list;
pub(crate) mod webhook_resend;
pub(crate) mod webhook_status;
