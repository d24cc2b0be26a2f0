//! Published messages and their deliveries: looks at both, each way in which an endpoint changes,
//! and crashes between the steps.

mod crashes;
mod deletion;
mod deliveries;
mod dlq;
mod endpoints;
mod fan_out;
mod secrets;
mod sweep;
mod tenant;
mod traffic;
