//! The OpenAPI 3.1 document, built from the annotations of the handlers.
//!
//! A test (`tests/http/openapi.rs`) builds it and compares it with `openapi.json`, the checked-in
//! copy that `GET /openapi.json` returns. The function serves that text and does not build the
//! document itself.

pub(crate) mod document;
pub(crate) mod errors;
pub(crate) mod examples;
pub(crate) mod parameters;
pub(crate) mod schemas;
