//! Traffic control: how fast and when webhooks may go to one receiver.
//!
//! The unit is the *target*. A target has a circuit ([`crate::circuit`]), and it can have a pace
//! and a configured rate:
//!
//! - A receiver that answers 429, or 503 with `Retry-After`, pauses its target. After the pause the
//!   target continues at a learned rate, which starts low and grows with time. Each further 429
//!   decreases it. [`pace`] has the arithmetic.
//! - An operator can configure a rate for a host ([`rate_limit`]).
//!
//! Both are shared by all workers through *slots*: a rate maps slot numbers to times, workers take
//! slots from a stored counter, and each slot serves one attempt. [`slots`] has the rules.
//!
//! All of it is pure. The functions get the time as a parameter.

pub mod pace;
pub mod rate_limit;
pub mod slots;
pub mod target;
