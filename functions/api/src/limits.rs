//! The limits of requests. The readers in `input` enforce them, and the OpenAPI document states
//! them.

use std::time::Duration;

/// The largest body. Lambda passes at most this much to a function at once.
pub(crate) const MAX_BODY_BYTES: usize = 6 * 1024 * 1024;

/// The part of a body besides its payload: URL, headers, the other fields, whitespace.
pub(crate) const ENVELOPE_BYTES: usize = 64 * 1024;

/// Webhooks in one batch.
pub(crate) const MAX_BATCH_ITEMS: usize = 100;

/// The levels of arrays and objects in the payload of a message.
pub(crate) const MAX_PAYLOAD_DEPTH: usize = 128;

/// Custom headers of one webhook.
pub(crate) const MAX_HEADERS: usize = 32;

/// The total size of a webhook's custom headers, names and values.
pub(crate) const MAX_HEADERS_BYTES: usize = 8 * 1024;

/// The longest event type.
pub(crate) const MAX_EVENT_TYPE_BYTES: usize = 128;

/// How far in the future `deliver_at` may be: 365 days.
pub(crate) const MAX_SCHEDULE_AHEAD: Duration = Duration::from_secs(365 * 24 * 3600);

/// The longest idempotency key.
pub(crate) const MAX_IDEMPOTENCY_KEY_BYTES: usize = 255;

/// The longest correlation ID that is accepted from a caller.
pub(crate) const MAX_CORRELATION_ID_BYTES: usize = 128;

/// The longest cursor. A longer one is refused unread.
pub(crate) const MAX_CURSOR_BYTES: usize = 512;

/// The most items on one page.
pub(crate) const MAX_PAGE_SIZE: usize = 100;

/// The items on one page if the request does not name a number.
pub(crate) const DEFAULT_PAGE_SIZE: usize = 20;

/// The last page that a request can name by its number.
pub(crate) const MAX_PAGE: usize = 100;

/// The largest `older_than_days`, about 100 years. It keeps the result after the Unix epoch.
pub(crate) const MAX_OLDER_THAN_DAYS: f64 = 36_500.0;

/// The most field errors in one response.
pub(crate) const MAX_FIELD_ERRORS: usize = 20;

/// The value of `status` by which an application's callers find dead letters.
pub(crate) const DEAD: &str = "dead";
