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

const TABLE: &str = "!GetAtt Table.Arn";
const WORK: &str = "!Sub ${Table.Arn}/index/work";

/// The statements on the table and its indexes in the role's policies in the template.
fn statements(role: &str) -> Vec<String> {
    let template =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../infra/template.yaml"))
            .unwrap();
    let policies = template
        .split(&format!("\n  {role}:\n"))
        .nth(1)
        .unwrap_or_else(|| panic!("no role {role}"));
    let policies = policies.split("\n\n").next().unwrap();
    let statements = policies.split("- Sid: ").skip(1);
    statements.filter(|statement| statement.contains("dynamodb:")).map(str::to_owned).collect()
}

/// The kinds of items ([`KEYS`]) on which the role may call this action.
fn allowed(role: &str, action: &str, resource: &str) -> Vec<&'static str> {
    let statements = statements(role);
    let is_on_resource =
        |statement: &&String| statement.contains(&format!("Resource: {resource}\n"));
    let is_for_action = |statement: &&String| {
        list_after(statement, "Action:").contains(&format!("dynamodb:{action}"))
    };
    let of_action = statements.iter().filter(is_on_resource).filter(is_for_action);
    let patterns: Vec<_> =
        of_action.map(|statement| list_after(statement, "dynamodb:LeadingKeys:")).collect();
    let is_allowed = |key: &&str| {
        patterns.iter().any(|keys| keys.is_empty() || keys.iter().any(|one| matches(one, key)))
    };
    KEYS.into_iter().filter(is_allowed).collect()
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
const KEYS: [&str; 15] = [
    WEBHOOK,
    CONTENT,
    "days",
    "key/k",
    "ping",
    "app/a",
    "target/0",
    "target/3",
    "activity",
    "activity/3",
    "sweep",
    "totals",
    "due/0",
    "due2/0",
    "other",
];

/// Each function can write only its own items. `deliver` puts the records of deliveries, and
/// deletes messages whose deletion it continues. `dlq` deletes only the content of an existing dead
/// letter. The test checks every write action on every kind of item in the policies, because the
/// emulator ignores the condition.
#[test]
fn each_function_writes_only_its_own_items() {
    let expected: [(&str, &str, &[&str]); 12] = [
        ("ApiRole", "PutItem", &[WEBHOOK, CONTENT, "days", "key/k", "ping", "app/a"]),
        ("ApiRole", "UpdateItem", &[WEBHOOK, CONTENT]),
        ("ApiRole", "DeleteItem", &[WEBHOOK, CONTENT]),
        ("DeliverRole", "PutItem", &[WEBHOOK, "activity", "activity/3"]),
        ("DeliverRole", "UpdateItem", &[WEBHOOK, CONTENT, "target/0", "target/3"]),
        ("DeliverRole", "DeleteItem", &[WEBHOOK, CONTENT]),
        ("SweepRole", "PutItem", &["activity", "activity/3", "sweep", "totals"]),
        ("SweepRole", "UpdateItem", &[WEBHOOK, CONTENT, "sweep"]),
        ("SweepRole", "DeleteItem", &[]),
        ("DlqRole", "PutItem", &[WEBHOOK, CONTENT, "days", "activity", "activity/3"]),
        ("DlqRole", "UpdateItem", &[WEBHOOK, CONTENT]),
        ("DlqRole", "DeleteItem", &[CONTENT]),
    ];
    for (role, action, wanted) in expected {
        assert_eq!(allowed(role, action, TABLE), wanted, "{role} {action}");
    }
}

/// `deliver` and `dlq` can read only the items that they need, and the sweep's queries of the index
/// find only due entries.
#[test]
fn each_function_reads_only_the_items_that_it_needs() {
    let targets: &[&str] = &["target/0", "target/3"];
    let read_by_deliver: &[&str] = &[WEBHOOK, CONTENT, "app/a", "target/0", "target/3", "sweep"];
    let expected: [(&str, &str, &str, &[&str]); 9] = [
        ("DeliverRole", "GetItem", TABLE, read_by_deliver),
        ("DeliverRole", "BatchGetItem", TABLE, targets),
        ("DeliverRole", "Query", TABLE, &[WEBHOOK]),
        ("DeliverRole", "Query", WORK, targets),
        ("SweepRole", "BatchGetItem", TABLE, &[]),
        ("SweepRole", "Query", WORK, &["due/0", "due2/0"]),
        ("DlqRole", "GetItem", TABLE, &[WEBHOOK, CONTENT, "sweep"]),
        ("DlqRole", "Query", TABLE, &[WEBHOOK]),
        ("DlqRole", "Query", WORK, &[]),
    ];
    for (role, action, resource, wanted) in expected {
        assert_eq!(allowed(role, action, resource), wanted, "{role} {action} {resource}");
    }
}

/// The two tests above see every statement: none has another action, writes to another resource,
/// or compares keys with another operator.
#[test]
fn the_policies_have_no_other_actions_resources_and_conditions() {
    for role in ["ApiRole", "DeliverRole", "SweepRole", "DlqRole"] {
        let statements = statements(role);
        assert!(statements.len() >= 4, "{role}: {statements:?}");
        for statement in statements {
            let statement = statement.split_whitespace().collect::<Vec<_>>().join(" ");
            let (_, actions) = statement.split_once(" Action: ").unwrap();
            let (actions, rest) = actions.split_once(" Resource: ").unwrap();
            for action in actions.trim_matches(['[', ']']).split(", ") {
                let name = action.strip_prefix("dynamodb:").unwrap_or_default();
                let is_read = ["BatchGetItem", "GetItem", "Query"].contains(&name);
                let is_write = ["PutItem", "UpdateItem", "DeleteItem"].contains(&name);
                assert!(is_read || is_write, "{role}: {action}");
                let on_table = rest.starts_with(&format!("{TABLE} "));
                assert!(on_table || is_read, "{role}: {statement}");
            }
            let condition = "Condition: ForAllValues:StringLike: dynamodb:LeadingKeys: [";
            assert_eq!(
                statement.matches("Condition:").count(),
                statement.matches(condition).count(),
                "{role}: {statement}"
            );
        }
    }
}
