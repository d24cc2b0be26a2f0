//! The function `api`: reads an HTTP request, makes one call of the store or the queue, and returns
//! the result.
//!
//! - `edge`: everything around a request. `boundary` runs first, and `auth` admits the caller, with
//!   `application_key` for the keys of applications. `permission` gives a handler its application.
//!   `correlation` and `trace` identify the request. `lambda` and `stage` adapt Lambda's events.
//! - `input`: parsing and validation. `body`, `fields` and `query` read a request. `submission` is
//!   a valid webhook, `publication` a valid message, `application` and `endpoint` are what their
//!   names say. `path` is an ID in the path, `cursor` a position in a list.
//! - `routes`: one file for each resource or action.
//! - `accept`, `accept_batch`, `idempotency`: how something is accepted once for each idempotency
//!   key. `dispatch` creates a webhook and hands it to the queue, `publish` a message.
//! - `deliveries`: a webhook of either kind as readers see it.
//! - `edit`: how the document of an application is changed.
//! - `app`, `capacity`, `probe`, `test_limiter`: the state that requests share.
//! - `limits`, `problem`, `respond`, `view`, `message_view`, `application_view`, `target_view`,
//!   `paging`: limits, and the shapes of responses.
//! - `router`, `openapi`: the list of routes, and their description as an OpenAPI document.
//!
//! A webhook takes this path: `boundary` admits the request, `routes::webhook_create` reads it into
//! a `submission`, `accept` finds its ID, `dispatch` stores it and sends its message, and `view`
//! shapes the 202. A message takes the same path with a `publication`, `publish` and
//! `message_view`: `publish` plans its deliveries before `accept` finds its ID.
//!
//! Task IDs sort webhooks by creation. The time of an ID is at most 1 s ahead of the clock. The
//! items of a batch are in their order, except with an idempotency key: their IDs then share one
//! millisecond and have no order within it.
//!
//! The router is the same on Lambda and in the local stack. It keeps no state between requests
//! apart from short-lived caches.

mod accept;
mod accept_batch;
mod app;
mod application_view;
mod capacity;
mod deliveries;
mod dispatch;
mod edge;
mod edit;
mod idempotency;
mod input;
mod limits;
mod message_view;
mod openapi;
mod paging;
mod probe;
mod problem;
mod publish;
mod respond;
mod router;
mod routes;
mod target_view;
mod test_limiter;
mod view;

pub use edge::{auth::Access, lambda::on_lambda};
pub use router::{document, guarded, metrics_router, paths, router};
