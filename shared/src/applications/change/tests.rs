//! Each change of a document, and each error.

use proptest::prelude::*;

use super::*;
use crate::{
    applications::{
        endpoint::{EndpointInput, SealedHeader},
        keys::Scopes,
        matching::match_message,
        secrets::SecretKind,
    },
    config::KeyHash,
    retry_override::RetryOverride,
};

const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn actor(seconds: i64) -> Actor<'static> {
    let now = Timestamp::from_millis(NOW.as_millis() + seconds * 1000);
    Actor { by: "key-1", why: DisabledWhy::Customer, now }
}

fn id(n: u8) -> EndpointId {
    EndpointId::mint([n; 10])
}

fn application() -> Application {
    Application::new("cust-7".parse().unwrap(), ApplicationInput::default(), actor(0)).unwrap()
}

fn patch(input: EndpointInput) -> EndpointPatch {
    input.check(30_000, |value| format!("sealed({value})").into()).unwrap()
}

fn with_url() -> EndpointPatch {
    patch(EndpointInput { url: Given::Value("https://a.example".to_owned()), ..Default::default() })
}

fn with_endpoint() -> Application {
    application().create_endpoint(id(1), with_url(), Vec::new(), actor(1)).unwrap()
}

fn full_patch() -> EndpointPatch {
    patch(EndpointInput {
        url: Given::Value("https://b.example".to_owned()),
        event_types: Given::Value(vec!["order.*".to_owned()]),
        headers: Given::Value(vec![("x-token".to_owned(), "abc".to_owned())]),
        retry: Given::Value(RetryOverride { max_attempts: Some(7), ..Default::default() }),
        timeout_ms: Given::Value(5000),
        description: Given::Value("ours".to_owned()),
        metadata: Given::Value(Metadata::from([("team".to_owned(), "a".to_owned())])),
        enabled: Given::Value(false),
    })
}

fn key_id(n: usize) -> ApplicationKeyId {
    format!("key-{n:016x}").parse().unwrap()
}

fn key(n: usize) -> StoredKey {
    StoredKey {
        id: key_id(n),
        name: "ci".parse().unwrap(),
        sha256: KeyHash::of(b"a key"),
        scopes: Scopes::parse(&["publish"]).unwrap(),
        expires_at: None,
    }
}

#[test]
fn a_new_application_has_revision_1_and_the_reserved_id_is_refused() {
    let application = application();
    assert_eq!((application.revision, application.created_at), (1, NOW));
    assert_eq!(application.changes[0].what, "application.created");
    let reserved =
        Application::new("posthaste".parse().unwrap(), ApplicationInput::default(), actor(0));
    let Err(ChangeError::Fields(errors)) = reserved else { panic!("{reserved:?}") };
    assert_eq!(errors[0].field, "application_id");
}

#[test]
fn put_replaces_the_settings_and_keeps_endpoints_and_keys() {
    let before = with_endpoint().add_key(key(1), actor(2)).unwrap();
    let input = ApplicationInput {
        name: Given::Value("Seven".to_owned()),
        keep_unmatched: Given::Value(true),
        metadata: Given::Value(Metadata::from([("a".to_owned(), "b".to_owned())])),
    };
    let named = before.put(input, actor(3)).unwrap();
    assert_eq!(
        (named.name.as_deref(), named.keep_unmatched, named.metadata.len()),
        (Some("Seven"), true, 1)
    );
    assert_eq!((&named.endpoints, &named.keys), (&before.endpoints, &before.keys));
    let again = named.put(ApplicationInput::default(), actor(4)).unwrap();
    assert_eq!((again.name, again.keep_unmatched, again.metadata.len()), (None, false, 0));
    let long = Given::Value("n".repeat(MAX_NAME_BYTES + 1));
    let refused = named.put(ApplicationInput { name: long, ..Default::default() }, actor(5));
    let Err(ChangeError::Fields(errors)) = refused else { panic!("{refused:?}") };
    assert_eq!(errors[0].field, "name");
}

#[test]
fn an_endpoint_is_created_with_its_fields() {
    let secret = StoredSecret {
        id: "sec-0000000000000001".parse().unwrap(),
        kind: SecretKind::V1,
        sealed: "k.x".to_owned().into(),
        created_at: NOW,
        expires_at: None,
    };
    let next =
        application().create_endpoint(id(1), full_patch(), vec![secret.clone()], actor(9)).unwrap();
    let endpoint = next.endpoint(id(1)).unwrap();
    assert_eq!(
        (endpoint.revision, endpoint.created_at, endpoint.updated_at),
        (1, actor(9).now, actor(9).now)
    );
    assert_eq!(endpoint.url, "https://b.example");
    assert_eq!(endpoint.event_types, Some(vec!["order.*".parse().unwrap()]));
    let sealed = "sealed(abc)".to_owned().into();
    assert_eq!(endpoint.headers, [SealedHeader { name: "x-token".to_owned(), sealed }]);
    assert_eq!(endpoint.secrets, [secret]);
    assert_eq!(endpoint.retry.as_ref().unwrap().max_attempts, Some(7));
    assert_eq!((endpoint.timeout_ms, endpoint.description.as_deref()), (Some(5000), Some("ours")));
    assert_eq!(endpoint.metadata["team"], "a");
    let disabled = Disabled { at: actor(9).now, why: DisabledWhy::Customer, told: true };
    assert_eq!(endpoint.disabled, Some(disabled));
}

#[test]
fn a_patch_changes_what_it_names_and_null_removes() {
    let before = application().create_endpoint(id(1), full_patch(), vec![], actor(1)).unwrap();
    let url = Given::Value("https://c.example".to_owned());
    let only_url = patch(EndpointInput { url, ..Default::default() });
    let next = before.patch_endpoint(id(1), only_url, actor(2)).unwrap();
    let (old, new) = (before.endpoint(id(1)).unwrap(), next.endpoint(id(1)).unwrap());
    let expected = Endpoint {
        url: "https://c.example".to_owned(),
        revision: 2,
        updated_at: actor(2).now,
        ..old.clone()
    };
    assert_eq!(*new, expected);
    assert_eq!(next.changes.last().unwrap().what, format!("endpoint.changed {}: url", id(1)));
    let removed = patch(EndpointInput {
        event_types: Given::Null,
        headers: Given::Null,
        retry: Given::Null,
        timeout_ms: Given::Null,
        description: Given::Null,
        metadata: Given::Null,
        enabled: Given::Null,
        ..Default::default()
    });
    let bare = next.patch_endpoint(id(1), removed, actor(3)).unwrap();
    let bare = bare.endpoint(id(1)).unwrap();
    let blank = Endpoint {
        event_types: None,
        headers: Vec::new(),
        retry: None,
        timeout_ms: None,
        description: None,
        metadata: Metadata::new(),
        disabled: None,
        revision: 3,
        updated_at: actor(3).now,
        ..new.clone()
    };
    assert_eq!(*bare, blank);
}

#[test]
fn a_patch_that_changes_nothing_is_not_written() {
    let before = with_endpoint();
    for same in [EndpointPatch::default(), with_url(), EndpointPatch::enabled(true)] {
        let refused = before.patch_endpoint(id(1), same, actor(9));
        assert_eq!(refused, Err(ChangeError::Unchanged));
    }
    assert_eq!(before.enable_endpoint(id(1), actor(9)), Err(ChangeError::Unchanged));
    let disabled = before.disable_endpoint(id(1), actor(2)).unwrap();
    assert_eq!(disabled.disable_endpoint(id(1), actor(9)), Err(ChangeError::Unchanged));
    let enabled = disabled.enable_endpoint(id(1), actor(3)).unwrap();
    let endpoint = enabled.endpoint(id(1)).unwrap();
    assert_eq!((endpoint.is_enabled(), endpoint.revision, enabled.revision), (true, 3, 4));
}

#[test]
fn what_is_missing_or_taken_is_named() {
    let before = with_endpoint();
    let missing = Err(ChangeError::NoSuchEndpoint);
    assert_eq!(before.patch_endpoint(id(2), with_url(), actor(2)), missing);
    assert_eq!(before.enable_endpoint(id(2), actor(2)), missing);
    assert_eq!(before.disable_endpoint(id(2), actor(2)), missing);
    assert_eq!(before.delete_endpoint(id(2), actor(2)), missing);
    assert_eq!(before.delete_key(key_id(1), actor(2)), Err(ChangeError::NoSuchKey));
    let taken = before.create_endpoint(id(1), with_url(), vec![], actor(2));
    assert_eq!(taken, Err(ChangeError::IdTaken));
    let keyed = before.add_key(key(1), actor(2)).unwrap();
    assert_eq!(keyed.add_key(key(1), actor(2)), Err(ChangeError::IdTaken));
    let Err(ChangeError::Fields(errors)) =
        before.create_endpoint(id(2), EndpointPatch::default(), vec![], actor(2))
    else {
        panic!("it has no URL")
    };
    assert_eq!(errors[0].field, "url");
    assert!(before.delete_endpoint(id(1), actor(2)).unwrap().endpoints.is_empty());
    assert!(keyed.delete_key(key_id(1), actor(3)).unwrap().keys.is_empty());
}

#[test]
fn a_deleted_application_does_not_change() {
    let deleted = Application { deleted_at: Some(NOW), ..with_endpoint() };
    let gone = Err(ChangeError::Deleted);
    assert_eq!(deleted.put(ApplicationInput::default(), actor(2)), gone);
    assert_eq!(deleted.create_endpoint(id(2), with_url(), vec![], actor(2)), gone);
    assert_eq!(deleted.patch_endpoint(id(1), with_url(), actor(2)), gone);
    assert_eq!(deleted.disable_endpoint(id(1), actor(2)), gone);
    assert_eq!(deleted.delete_endpoint(id(1), actor(2)), gone);
    assert_eq!(deleted.add_key(key(1), actor(2)), gone);
    assert_eq!(deleted.delete_key(key_id(1), actor(2)), gone);
}

#[test]
fn endpoints_and_keys_have_a_limit_and_a_full_document_can_only_shrink() {
    let mut full = application();
    for n in 0..MAX_ENDPOINTS {
        full = full.create_endpoint(id(n as u8), with_url(), vec![], actor(1)).unwrap();
    }
    let refused = full.create_endpoint(id(200), with_url(), vec![], actor(2));
    assert_eq!(refused, Err(ChangeError::TooManyEndpoints));
    let mut keyed = application();
    for n in 0..MAX_KEYS {
        keyed = keyed.add_key(key(n), actor(1)).unwrap();
    }
    assert_eq!(keyed.add_key(key(99), actor(2)), Err(ChangeError::TooManyKeys));
    // Texts that do not compress, up to the limit of the document.
    let mut state = 1_u64;
    let mut noise = || -> String {
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            char::from(b'!' + ((state >> 33) % 94) as u8)
        };
        (0..8000).map(|_| next()).collect()
    };
    let mut large = full;
    let error = (0..MAX_ENDPOINTS).find_map(|n| {
        let headers = Given::Value(vec![("x".to_owned(), noise())]);
        let patch = patch(EndpointInput { headers, ..Default::default() });
        match large.patch_endpoint(id(n as u8), patch, actor(2)) {
            Ok(next) => {
                large = next;
                None
            }
            Err(error) => Some(error),
        }
    });
    let Some(ChangeError::TooLarge { bytes }) = error else { panic!("{error:?}") };
    assert!(bytes > MAX_DOCUMENT_BYTES && large.deflated_bytes() <= MAX_DOCUMENT_BYTES);
    assert!(large.deflated_bytes() > MAX_DOCUMENT_BYTES * 9 / 10);
    let larger = Application { name: Some(noise().repeat(2)), ..large };
    assert!(larger.disable_endpoint(id(0), actor(3)).is_ok());
    assert!(larger.delete_endpoint(id(0), actor(3)).is_ok());
}

#[test]
fn the_newest_changes_are_kept_with_who_and_when() {
    let mut application = with_endpoint();
    for n in 0..MAX_CHANGES_KEPT as i64 {
        let by = Actor { by: &"ä".repeat(MAX_ACTOR_BYTES), ..actor(n) };
        application = if n % 2 == 0 {
            application.disable_endpoint(id(1), by).unwrap()
        } else {
            application.enable_endpoint(id(1), by).unwrap()
        };
    }
    let changes = &application.changes;
    assert_eq!(changes.len(), MAX_CHANGES_KEPT);
    assert_eq!(changes[0].what, format!("endpoint.disabled {}", id(1)));
    assert_eq!(changes[99].at, actor(99).now);
    assert!(changes.iter().all(|change| change.by.len() <= MAX_ACTOR_BYTES));
}

#[test]
fn a_message_goes_to_enabled_endpoints_that_match() {
    let types = |texts: &[&str], enabled| {
        patch(EndpointInput {
            url: Given::Value("https://a.example".to_owned()),
            event_types: Given::Value(texts.iter().map(|text| (*text).to_owned()).collect()),
            enabled: Given::Value(enabled),
            ..Default::default()
        })
    };
    let mut application = with_endpoint();
    for (n, types) in [
        (2, types(&["order.*", "invoice"], true)),
        (3, types(&["order.paid"], false)),
        (4, types(&["invoice"], false)),
    ] {
        application = application.create_endpoint(id(n), types, vec![], actor(2)).unwrap();
    }
    for (event_type, planned, off) in [
        ("order.paid", vec![id(1), id(2)], vec![id(3)]),
        ("invoice", vec![id(1), id(2)], vec![id(4)]),
        ("other", vec![id(1)], vec![]),
    ] {
        let plan = match_message(&application, &event_type.parse().unwrap());
        assert_eq!((&plan.planned, &plan.off), (&planned, &off), "{event_type}");
        assert!(!plan.is_empty());
    }
    let empty = self::application();
    assert!(match_message(&empty, &"order".parse().unwrap()).is_empty());
}

proptest! {
    /// Whatever is tried in whatever order: each success raises the revision by one, an endpoint
    /// keeps its id and creation, its own revision counts its changes, and the document is read as
    /// it was written.
    #[test]
    fn any_history_of_changes_keeps_the_rules(
        events in proptest::collection::vec((0_u8..6, 0_u8..4), 1..60),
    ) {
        let mut before = application();
        for (seconds, (event, n)) in events.into_iter().enumerate() {
            let actor = actor(seconds as i64);
            let changed = match event {
                0 => before.create_endpoint(id(n), with_url(), vec![], actor),
                1 => before.patch_endpoint(id(n), full_patch(), actor),
                2 => before.patch_endpoint(id(n), with_url(), actor),
                3 => before.disable_endpoint(id(n), actor),
                4 => before.enable_endpoint(id(n), actor),
                _ => before.delete_endpoint(id(n), actor),
            };
            let Ok(after) = changed else { continue };
            prop_assert_eq!((after.revision, after.updated_at), (before.revision + 1, actor.now));
            prop_assert_eq!(&after.changes.last().unwrap().at, &actor.now);
            for endpoint in &after.endpoints {
                match before.endpoint(endpoint.id) {
                    None => prop_assert_eq!(endpoint.revision, 1),
                    Some(old) if old == endpoint => {}
                    Some(old) => {
                        prop_assert_eq!(endpoint.revision, old.revision + 1);
                        prop_assert_eq!(endpoint.created_at, old.created_at);
                        prop_assert_eq!(&endpoint.secrets, &old.secrets);
                    }
                }
            }
            prop_assert_eq!(&Application::from_json(&after.to_json()).unwrap(), &after);
            before = after;
        }
    }
}
