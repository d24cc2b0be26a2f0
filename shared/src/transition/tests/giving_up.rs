//! Giving up: the message for each reason, and no failure before an attempt.

use super::*;

/// The record of a webhook that was given up says why.
#[test]
fn what_is_given_up_says_why() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let lost = rules().claim(&record, ClaimId(1), NOW).unwrap();
    for (reason, record, message) in [
        (GiveUp::Interrupted, &lost, "1 attempts in a row ended without a recorded answer"),
        (GiveUp::CircuitOpen, &lost, "the destination's circuit stayed open for too long"),
        (GiveUp::Undeliverable, &lost, "the queue gave up on it 4 times"),
        (
            GiveUp::Unreadable,
            &record,
            "the queue held an unreadable message; the payload is its text",
        ),
        (
            GiveUp::EndpointUnusable,
            &record,
            "the settings or secrets of the endpoint could not be read for too long",
        ),
    ] {
        let error =
            rules().give_up(record, reason, Function::Dlq, at(60)).unwrap().last_error.unwrap();
        assert_eq!(
            (error.kind, error.message.as_str(), error.status_code),
            (reason.kind(), message, None)
        );
    }
}

/// No internal budget fails a webhook without an attempt since it was accepted or sent again.
#[test]
fn nothing_fails_untried() {
    let record = rules().create(new_webhook(TaskId::mint(NOW, [1; 10])), NOW);
    let claimed = rules().claim(&record, ClaimId(1), NOW).unwrap();
    let failed = rules().conclude(&claimed, ClaimId(1), &answered(410), NOW, 0.5).unwrap();
    let resent = rules().resend(&failed, NOW).unwrap();
    let given_back = rules().give_back(&claimed, ClaimId(1), "nothing was sent", NOW, NOW).unwrap();
    for untried in [&record, &resent, &given_back] {
        for reason in [GiveUp::CircuitOpen, GiveUp::Undeliverable] {
            assert_eq!(
                rules().give_up(untried, reason, Function::Dlq, at(60)),
                Err(Refusal::Untried)
            );
        }
    }
}
