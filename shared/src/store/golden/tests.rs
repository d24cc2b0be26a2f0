//! Each sample against its golden file.

use std::fmt::Debug;

use serde::{Serialize, de::DeserializeOwned};

use super::*;
use crate::{
    applications::application::Application,
    message::{InvalidMessage, Look},
    model::InvalidRecord,
    record::Record,
    store::DeadLetterPosition,
    transition::{GiveUp, Rules},
};

fn check_json<T: Serialize + DeserializeOwned + PartialEq + Debug>(name: &str, sample: &T) {
    check(name, &serde_json::to_string(sample).unwrap());
    assert_eq!(serde_json::from_str::<T>(&read(name)).unwrap(), *sample, "{name}");
}

#[test]
fn records_are_read_and_written_as_in_schema_1() {
    for (name, record) in records() {
        check(name, &record.to_json());
        assert_eq!(Webhook::from_json(&read(name)).unwrap(), record, "{name}");
    }
}

#[test]
fn messages_are_read_and_written_as_in_schema_1() {
    for (name, message) in messages() {
        check(name, &message.to_json());
        assert_eq!(Message::from_json(&read(name)).unwrap(), message, "{name}");
    }
}

#[test]
fn webhooks_that_wait_for_a_slot_are_read_and_written_as_in_schema_1() {
    for (name, record) in
        [("record_throttled.json", throttled()), ("record_rate_limited.json", rate_limited())]
    {
        check(name, &record.to_json());
        assert_eq!(Webhook::from_json(&read(name)).unwrap(), record, "{name}");
    }
    let message = Message { slot: throttled().slot, relays: 3, ..Message::look_at(throttled().id) };
    check("message_with_slot.json", &message.to_json());
    assert_eq!(Message::from_json(&read("message_with_slot.json")).unwrap(), message);
}

/// An operator can roll back: the previous release knows each value in these records.
#[test]
fn the_previous_release_reads_what_traffic_control_writes() {
    let rules = Rules::default();
    let given_up = rules.give_up(&throttled(), GiveUp::RateLimited, Function::Deliver, at(10));
    for record in [throttled(), rate_limited(), given_up.unwrap()] {
        let json = record.to_json();
        assert!(previous_release::reads(&json), "{json}");
    }
    let json = throttled().to_json();
    for (known, unknown) in
        [("\"v\":1", "\"v\":2"), ("\"retrying\"", "\"paused\""), ("\"dfr\"", "\"thr\"")]
    {
        assert!(json.contains(known), "{json}");
        assert!(!previous_release::reads(&json.replace(known, unknown)), "{unknown}");
    }
}

#[test]
fn all_else_is_read_and_written_as_in_schema_1() {
    check_json("due_cursor.json", &due_cursor());
    let position = DeadLetterPosition { archived_at: at(4), task: task(5), endpoint: None };
    check_json("dead_letter_position.json", &position);
    for (name, target) in targets() {
        check_json(name, &target);
    }
    for (name, report) in sweep_reports() {
        check_json(name, &report);
    }
    check_json("sweep_report_searched.json", &searched_sweep_report());
    for (name, reservation) in reservations() {
        check_json(name, &reservation);
    }
}

#[test]
fn every_kind_of_error_has_a_sample() {
    for kind in ErrorKind::ALL {
        let has_it = |record: &Webhook| {
            record.attempts.iter().any(|attempt| attempt.error == Some(kind))
                || record.last_error.as_ref().is_some_and(|error| error.kind == kind)
        };
        let (direct, deliveries) = (records(), applications::given_up());
        let mut all = direct.iter().map(|(_, record)| record);
        assert!(all.any(has_it) || deliveries.iter().any(|(_, record)| has_it(record)), "{kind:?}");
    }
}

#[test]
fn published_messages_are_read_and_written_as_in_schema_2() {
    for (name, message) in applications::published_messages() {
        let record = Record::Message(Box::new(message));
        check(name, &record.to_json());
        assert_eq!(Record::from_json(&read(name)).unwrap(), record, "{name}");
    }
}

/// What a delivery without a record is follows from the stored message alone, so it must not change
/// while such a message exists.
#[test]
fn deliveries_are_what_they_are_in_schema_2() {
    for (name, delivery) in applications::deliveries().into_iter().chain(applications::given_up()) {
        let record = Record::Webhook(Box::new(delivery));
        check(name, &record.to_json());
        assert_eq!(Record::from_json(&read(name)).unwrap(), record, "{name}");
    }
}

#[test]
fn looks_are_read_and_written_as_in_schema_2() {
    for (name, look) in applications::looks() {
        check(name, &look.to_json());
        assert_eq!(Look::from_json(&read(name)).unwrap(), look, "{name}");
    }
}

#[test]
fn applications_are_read_and_written_as_in_schema_2() {
    for (name, application) in applications::applications() {
        check(name, &application.to_json());
        assert_eq!(Application::from_json(&read(name)).unwrap(), application, "{name}");
    }
}

/// A version before applications refuses each of them, and so changes none: a record stays, and a
/// look goes back to the queue.
#[test]
fn the_previous_release_refuses_what_applications_add() {
    for (name, _) in applications::published_messages() {
        assert!(!previous_release::reads(&read(name)), "{name}");
    }
    for (name, _) in applications::deliveries() {
        assert!(!previous_release::reads(&read(name)), "{name}");
    }
    // The code that reads schema version 1 is the same as in that release.
    for (name, _) in applications::looks() {
        let refused = Message::from_json(&read(name));
        assert!(matches!(refused, Err(InvalidMessage::TooNew { found: 2 })), "{name}: {refused:?}");
    }
    for (name, _) in applications::deliveries() {
        let refused = Webhook::from_json(&read(name));
        assert!(matches!(refused, Err(InvalidRecord::TooNew { found: 2 })), "{name}: {refused:?}");
    }
}
