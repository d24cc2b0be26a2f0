//! Published messages and the keys of their deliveries.
//!
//! A delivery is a webhook, and the other areas cover what all webhooks have in common. The cases
//! here cover what is different: a delivery without a record, its first write, and what occupies
//! its key.

mod audit;
mod create;
mod dead_letters;
mod delete;
mod deliveries;
mod due;
mod expiry;
mod list;
mod list_deliveries;
mod markers;
mod position;
mod published;
mod races;
mod standing;
mod unreadable;
mod write;

use super::Case;

pub(super) fn cases() -> Vec<Case> {
    [
        create::cases(),
        write::cases(),
        delete::cases(),
        due::cases(),
        deliveries::cases(),
        markers::cases(),
        races::cases(),
        standing::cases(),
        unreadable::cases(),
        expiry::cases(),
        list::cases(),
        list_deliveries::cases(),
        dead_letters::cases(),
        audit::cases(),
        position::cases(),
    ]
    .concat()
}
