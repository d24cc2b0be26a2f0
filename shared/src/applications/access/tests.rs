use std::collections::BTreeSet;

use super::*;

/// The table of the design, in its order: route, action, key. F is a full key, otherwise the scope.
const TABLE: [(&str, Action, &str); 36] = [
    ("PUT …", Action::PutApplication, "F"),
    ("GET /applications", Action::ListApplications, "F"),
    ("GET …", Action::GetApplication, "read"),
    ("DELETE …", Action::DeleteApplication, "F"),
    ("GET …/changes", Action::ListChanges, "F"),
    ("POST …/endpoints", Action::CreateEndpoint, "manage"),
    ("GET …/endpoints", Action::ListEndpoints, "read"),
    ("GET …/endpoints/{ep}", Action::GetEndpoint, "read"),
    ("PATCH E", Action::ChangeEndpoint, "manage"),
    ("DELETE E", Action::DeleteEndpoint, "manage"),
    ("POST E/enable", Action::EnableEndpoint, "manage"),
    ("POST E/disable", Action::DisableEndpoint, "manage"),
    ("GET E/secret", Action::GetSecret, "manage"),
    ("POST E/secret/rotate", Action::RotateSecret, "manage"),
    ("POST E/test", Action::TestEndpoint, "manage"),
    ("POST E/recover", Action::RecoverEndpoint, "manage"),
    ("POST …/messages", Action::Publish, "publish"),
    ("POST …/messages/batch", Action::PublishBatch, "publish"),
    ("GET …/messages", Action::ListMessages, "read"),
    ("GET …/messages/{id}", Action::GetMessage, "read"),
    ("DELETE …/messages/{id}", Action::DeleteMessage, "manage"),
    ("DELETE …/messages/{id}/payload", Action::DeletePayload, "manage"),
    ("POST …/messages/{id}/resend", Action::ResendMessage, "manage"),
    ("GET …/deliveries", Action::ListDeliveries, "read"),
    ("GET …/deliveries/{id}", Action::GetDelivery, "read"),
    ("GET …/deliveries/{id}/explain", Action::ExplainDelivery, "read"),
    ("POST …/deliveries/{id}/resend", Action::ResendDelivery, "manage"),
    ("POST …/keys", Action::CreateKey, "F"),
    ("GET …/keys", Action::ListKeys, "F"),
    ("DELETE …/keys/{key}", Action::DeleteKey, "F"),
    ("GET …/jobs", Action::ListJobs, "read"),
    ("GET …/jobs/{job}", Action::GetJob, "read"),
    ("DELETE …/jobs/{job}", Action::CancelJob, "manage"),
    ("POST …/preview", Action::Preview, "manage"),
    ("POST …/portal", Action::CreatePortal, "F"),
    ("all other routes", Action::Operate, "F"),
];

/// Every list of scopes, and what it permits.
const SCOPES: [(&[&str], &[&str]); 7] = [
    (&["publish"], &["publish"]),
    (&["read"], &["read"]),
    (&["manage"], &["read", "manage"]),
    (&["publish", "read"], &["publish", "read"]),
    (&["publish", "manage"], &["publish", "read", "manage"]),
    (&["read", "manage"], &["read", "manage"]),
    (&["publish", "read", "manage"], &["publish", "read", "manage"]),
];

const OWN: &str = "acme";

/// Another application, ones whose id only looks like the own one, and none.
const OTHERS: [&str; 4] = ["globex", "Acme", "acm", "acme2"];

fn scopes(names: &[&str]) -> Scopes {
    Scopes::parse(names).unwrap()
}

/// The access of each kind of caller with a key: it alone, and narrowing another caller.
fn keyed(names: &[&str]) -> [Access<&'static str>; 2] {
    let alone = Access::Key { application: OWN, scopes: scopes(names) };
    [alone, Access::Full.narrowed(OWN, scopes(names))]
}

#[test]
fn the_table_has_every_action_once() {
    assert_eq!(TABLE.map(|(_, action, _)| action), Action::ALL);
    let unique: BTreeSet<_> = Action::ALL.map(|action| format!("{action:?}")).into();
    assert_eq!(unique.len(), Action::ALL.len());
}

/// A full key, and a caller that the platform or this machine admits without an application key.
#[test]
fn full_access_may_do_everything_everywhere() {
    for (route, action, _) in TABLE {
        for application in [None, Some(&OWN), Some(&"globex")] {
            assert_eq!(Access::Full.may(action, application), Ok(()), "{route}");
        }
    }
}

#[test]
fn a_key_may_do_in_its_application_what_its_scopes_permit() {
    for (route, action, needs) in TABLE {
        for (names, permitted) in SCOPES {
            for access in keyed(names) {
                let expected = match needs {
                    "F" => Err(Denied::FullOnly),
                    scope if permitted.contains(&scope) => Ok(()),
                    "publish" => Err(Denied::ScopeMissing(Scope::Publish)),
                    "read" => Err(Denied::ScopeMissing(Scope::Read)),
                    _ => Err(Denied::ScopeMissing(Scope::Manage)),
                };
                assert_eq!(access.may(action, Some(&OWN)), expected, "{route} with {names:?}");
            }
        }
    }
}

#[test]
fn for_a_key_every_other_application_is_not_found_whatever_the_action() {
    for (route, action, _) in TABLE {
        for (names, _) in SCOPES {
            for (access, other) in
                keyed(names).iter().flat_map(|access| OTHERS.map(|o| (access, o)))
            {
                let denied = access.may(action, Some(&other));
                assert_eq!(denied, Err(Denied::NotFound), "{route} of {other} with {names:?}");
            }
        }
    }
}

/// Also an action with a scope, if a handler should forget to name the application.
#[test]
fn a_key_may_do_nothing_outside_an_application() {
    for (route, action, _) in TABLE {
        for (names, _) in SCOPES {
            for access in keyed(names) {
                assert_eq!(access.may(action, None), Err(Denied::FullOnly), "{route} {names:?}");
            }
        }
    }
}

/// Narrowing only ever takes away, and a second key does not replace the first.
#[test]
fn a_second_key_never_widens_the_first() {
    for (names, _) in SCOPES {
        for access in keyed(names) {
            for application in [OWN, "globex"] {
                let again = access.clone().narrowed(application, scopes(&["publish", "manage"]));
                assert_eq!(again, access);
            }
        }
    }
}

#[test]
fn a_denial_says_what_to_do_and_a_404_does_not_say_that_the_application_exists() {
    let text = |denied: Denied| denied.to_string();
    assert!(text(Denied::ScopeMissing(Scope::Manage)).contains("'manage'"));
    assert!(text(Denied::FullOnly).contains("API_KEYS"));
    assert_eq!(text(Denied::NotFound), "There is no such application.");
}
