//! The template in the tools of its users.

use harness::{aws::run_script, binaries::workspace};
use shared::queue::MAX_RECEIVES;

/// cfn-lint and `sam validate --lint` report nothing, and `sam build` builds a function from this
/// checkout.
#[test]
fn the_template_passes_the_linters_and_sam_builds_from_it() {
    let found = run_script("check").unwrap_or_else(|error| panic!("{error}"));
    println!("{found}");
}

/// The template's receive limit matches the code, and its reserved concurrency matches its
/// mappings.
#[test]
fn a_throttled_function_has_hours_and_concurrency_can_be_reserved() {
    let template = std::fs::read_to_string(workspace().join("infra/template.yaml")).unwrap();
    // Joins wrapped lines.
    let template = template.split_whitespace().collect::<Vec<_>>().join(" ");
    let number = |name: &str| -> u64 {
        let (_, rest) =
            template.split_once(&format!(" {name}: ")).unwrap_or_else(|| panic!("no {name}"));
        rest.split_whitespace().next().unwrap().parse().unwrap()
    };
    assert_eq!(number("maxReceiveCount"), u64::from(MAX_RECEIVES));
    let given_up_after_s = number("maxReceiveCount") * number("VisibilityTimeout");
    assert!(
        (2 * 3600..number("MessageRetentionPeriod")).contains(&given_up_after_s),
        "{given_up_after_s} s"
    );
    // A function would throttle itself with fewer than its mapping's concurrent calls.
    for (condition, reserved, mapping) in [
        ("CapsApi", "!Ref ApiMaxConcurrency", None),
        (
            "ReservesConcurrency",
            "!Ref MaxConcurrency",
            Some("{MaximumConcurrency: !Ref MaxConcurrency}"),
        ),
        (
            "ReservesConcurrency",
            "!Ref DlqMaxConcurrency",
            Some("{MaximumConcurrency: !Ref DlqMaxConcurrency}"),
        ),
        ("ReservesConcurrency", "2", None),
    ] {
        let line = format!(
            "ReservedConcurrentExecutions: !If [{condition}, {reserved}, !Ref \"AWS::NoValue\"]"
        );
        assert_eq!(template.matches(&line).count(), 1, "{line}");
        assert!(mapping.is_none_or(|mapping| template.contains(mapping)), "{mapping:?}");
    }
    assert!(
        template.contains("BatchSize: !Ref DeliverConcurrency")
            && template.contains("BATCH_SIZE: !Ref DeliverConcurrency")
    );
}

/// Whether the role's policies in the template allow this action on items with this partition key.
fn is_allowed(role: &str, action: &str, key: &str) -> bool {
    let template =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/template.yaml"))
            .unwrap();
    let policies = template
        .split(&format!("\n  {role}:\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("no role {role}"));
    let policies = policies.split("\n\n").next().unwrap();
    let table = policies
        .split("- Sid: ")
        .skip(1)
        .filter(|statement| statement.contains("Resource: !GetAtt Table.Arn"));
    let mut statements = table.filter(|statement| {
        list_after(statement, "Action:").contains(&format!("dynamodb:{action}"))
    });
    statements.any(|statement| {
        let keys = list_after(statement, "dynamodb:LeadingKeys:");
        keys.is_empty() || keys.iter().any(|pattern| matches(pattern, key))
    })
}

/// The items of the bracketed list after this word.
fn list_after(statement: &str, word: &str) -> Vec<String> {
    let list = statement
        .split(word)
        .nth(1)
        .and_then(|rest| rest.split(']').next()?.split('[').nth(1))
        .unwrap_or_default();
    list.split(',')
        .map(|item| item.trim().trim_matches('"').to_owned())
        .filter(|item| !item.is_empty())
        .collect()
}

fn matches(pattern: &str, key: &str) -> bool {
    pattern.strip_suffix('*').map_or(pattern == key, |beginning| key.starts_with(beginning))
}

/// The keys of all items of the table, as the module docs of `shared::store::dynamodb` list them.
const WEBHOOK: &str = "w/20000/7";
const CONTENT: &str = "c/01a20320-1dc2-78bf-973a-e31f032c3512/0f";
const KEYS: [&str; 13] = [
    WEBHOOK,
    CONTENT,
    "days",
    "key/k",
    "ping",
    "circuit",
    "circuit/3",
    "activity",
    "activity/3",
    "sweep",
    "totals",
    "due/0",
    "other",
];

/// Each function can write only its own items. `deliver` deletes no webhook, only circuits of
/// recovered destinations. `dlq` deletes only the content of an existing dead letter. The test
/// checks every write action on every kind of item in the policies, because the emulator ignores
/// the condition.
#[test]
fn each_function_writes_only_its_own_items() {
    let expected: [(&str, &str, &[&str]); 12] = [
        ("ApiRole", "PutItem", &[WEBHOOK, CONTENT, "days", "key/k", "ping"]),
        ("ApiRole", "UpdateItem", &[WEBHOOK, CONTENT]),
        ("ApiRole", "DeleteItem", &[WEBHOOK, CONTENT]),
        ("DeliverRole", "PutItem", &["circuit", "circuit/3", "activity", "activity/3"]),
        ("DeliverRole", "UpdateItem", &[WEBHOOK, CONTENT]),
        ("DeliverRole", "DeleteItem", &["circuit", "circuit/3"]),
        ("SweepRole", "PutItem", &["activity", "activity/3", "sweep", "totals"]),
        ("SweepRole", "UpdateItem", &[WEBHOOK, CONTENT, "sweep"]),
        ("SweepRole", "DeleteItem", &[]),
        ("DlqRole", "PutItem", &[WEBHOOK, CONTENT, "days", "activity", "activity/3"]),
        ("DlqRole", "UpdateItem", &[WEBHOOK, CONTENT]),
        ("DlqRole", "DeleteItem", &[CONTENT]),
    ];
    for (role, action, wanted) in expected {
        let allowed: Vec<&str> =
            KEYS.into_iter().filter(|key| is_allowed(role, action, key)).collect();
        assert_eq!(allowed, wanted, "{role} {action}");
    }
    for key in [WEBHOOK, CONTENT, "circuit", "circuit/3"] {
        assert!(is_allowed("DeliverRole", "GetItem", key), "{key}");
    }
}
