//! Applications: the customers of a publisher, their endpoints, and the messages that are published
//! to them.
//!
//! A publisher posts one message to an application, and each endpoint that matches gets it. The
//! message's record has the *plan*: the endpoints it goes to. Its *delivery* to one of them is a
//! [`Webhook`](crate::model::Webhook) with an endpoint in its id. From the write of the message on,
//! every planned delivery exists: without a record of its own, it is what
//! [`Rules::delivery`](crate::transition::Rules::delivery) returns. Its first transition stores its
//! record.
//!
//! | module | holds |
//! |---|---|
//! | [`id`] | the ids of applications and endpoints |
//! | [`event_type`] | event types, and the patterns of endpoints |
//! | [`application`] | the document of an application |
//! | [`endpoint`] | an endpoint within it, and the bounds of its fields |
//! | [`change`] | the changes of the document |
//! | [`secrets`] | the signing secrets of endpoints |
//! | [`keys`] | application keys and their scopes |
//! | [`access`] | who may do what |
//! | [`matching`] | which endpoints a message goes to |
//! | [`message`] | the record of a published message |
//! | [`standing`] | what the store has of a message's deliveries, and what follows from it |
//!
//! [`crate::transition`] has the transitions of messages and deliveries. All of it is pure.

pub mod access;
pub mod application;
pub mod change;
pub mod endpoint;
pub mod event_type;
mod generated_id;
pub mod id;
pub mod keys;
pub mod matching;
pub mod message;
pub mod secrets;
pub mod standing;
