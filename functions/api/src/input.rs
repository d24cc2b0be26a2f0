//! Parsing and validation of requests. One response names every wrong field.

pub(crate) mod application;
pub(crate) mod body;
pub(crate) mod cursor;
pub(crate) mod endpoint;
pub(crate) mod fields;
pub(crate) mod path;
pub(crate) mod publication;
pub(crate) mod query;
pub(crate) mod submission;
