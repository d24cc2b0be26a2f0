//! The template as its users' tools see it.

use posthaste_tests::{aws::run_script, binaries::workspace};
use shared::queue::MAX_RECEIVES;

/// cfn-lint and `sam validate --lint` find nothing, and `sam build` makes a function from this checkout.
#[test]
fn the_template_is_clean_and_sam_builds_from_it() {
    let found = run_script("check").unwrap_or_else(|error| panic!("{error}"));
    println!("{found}");
}

/// What the template says of receives and of reserved concurrency, against the code and against itself.
#[test]
fn a_throttled_function_is_given_hours_and_can_be_kept_from_being_throttled() {
    let template = std::fs::read_to_string(workspace().join("infra/template.yaml")).unwrap();
    let number = |name: &str| -> u64 {
        let (_, rest) = template.split_once(&format!(" {name}: ")).unwrap_or_else(|| panic!("no {name}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(number("maxReceiveCount"), u64::from(MAX_RECEIVES));
    let given_up_after_s = number("maxReceiveCount") * number("VisibilityTimeout");
    assert!((2 * 3600..number("MessageRetentionPeriod")).contains(&given_up_after_s), "{given_up_after_s} s");
    // Fewer than the mapping calls at a time, and it would throttle itself.
    for (condition, reserved, mapping) in [
        ("CapsApi", "!Ref ApiMaxConcurrency", None),
        ("ReservesConcurrency", "!Ref MaxConcurrency", Some("{MaximumConcurrency: !Ref MaxConcurrency}")),
        ("ReservesConcurrency", "!Ref DlqMaxConcurrency", Some("{MaximumConcurrency: !Ref DlqMaxConcurrency}")),
        ("ReservesConcurrency", "2", None),
    ] {
        let line = format!("ReservedConcurrentExecutions: !If [{condition}, {reserved}, !Ref \"AWS::NoValue\"]");
        assert_eq!(template.matches(&line).count(), 1, "{line}");
        assert!(mapping.is_none_or(|mapping| template.contains(mapping)), "{mapping:?}");
    }
    assert!(template.contains("BatchSize: !Ref DeliverConcurrency") && template.contains("BATCH_SIZE: !Ref DeliverConcurrency"));
}
