//! The types by which the previous release reads a record, as far as they are enums: a value that
//! they do not know makes the whole record unreadable to it. Frozen, so that records stay readable
//! after a roll-back.

#![expect(dead_code, reason = "the values only have to be readable")]

use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Record {
    v: u16,
    #[serde(rename = "s")]
    status: Status,
    #[serde(rename = "err", default)]
    last_error: Option<LastError>,
    #[serde(rename = "as", default)]
    attempts: Vec<Attempt>,
    #[serde(rename = "h", default)]
    history: Vec<Step>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Status {
    Pending,
    InProgress,
    Retrying,
    Delivered,
    Failed,
}

#[derive(Debug, Deserialize)]
struct LastError {
    #[serde(rename = "kind")]
    kind: ErrorKind,
}

#[derive(Debug, Deserialize)]
struct Attempt {
    #[serde(rename = "e", default)]
    error: Option<ErrorKind>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ErrorKind {
    HttpStatus,
    Network,
    Timeout,
    Tls,
    RefusedAddress,
    Interrupted,
    CircuitOpen,
    Undeliverable,
}

#[derive(Debug, Deserialize)]
struct Step {
    #[serde(rename = "f")]
    function: Function,
    #[serde(rename = "k")]
    transition: Transition,
    #[serde(rename = "s")]
    to: Status,
    #[serde(rename = "y", default)]
    why: Option<Why>,
}

#[derive(Debug, Deserialize)]
enum Function {
    #[serde(rename = "a")]
    Api,
    #[serde(rename = "d")]
    Deliver,
    #[serde(rename = "s")]
    Sweep,
    #[serde(rename = "q")]
    Dlq,
}

#[derive(Debug, Deserialize)]
enum Transition {
    #[serde(rename = "new")]
    Create,
    #[serde(rename = "clm")]
    Claim,
    #[serde(rename = "ok")]
    Deliver,
    #[serde(rename = "rty")]
    Retry,
    #[serde(rename = "fail")]
    Fail,
    #[serde(rename = "dfr")]
    Defer,
    #[serde(rename = "rq")]
    Requeue,
    #[serde(rename = "ad")]
    Adopt,
    #[serde(rename = "ar")]
    Archive,
    #[serde(rename = "rs")]
    Resend,
    #[serde(rename = "rd")]
    Redrive,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Why {
    LeaseOver,
    Audit,
    Rescue,
    Unsent,
    Scheduled,
    RetryAfter,
    RateLimit,
    #[serde(untagged)]
    Error(ErrorKind),
}

/// Whether the previous release reads the record. It refuses a newer schema version.
pub(super) fn reads(json: &str) -> bool {
    serde_json::from_str::<Record>(json).is_ok_and(|record| record.v == 1)
}
