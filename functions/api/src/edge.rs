//! Everything around a request, before and after its handler.

pub(crate) mod application_key;
pub(crate) mod auth;
pub(crate) mod boundary;
pub(crate) mod correlation;
pub(crate) mod lambda;
pub(crate) mod permission;
pub(crate) mod stage;
pub(crate) mod trace;
