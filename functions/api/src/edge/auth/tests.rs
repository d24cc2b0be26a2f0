use http::Request;

use super::*;

fn parts(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().method(method).uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn status(access: &Access, parts: &Parts) -> Option<ProblemKind> {
    admit(access, parts).err().map(|problem| problem.kind())
}

fn caller(admitted: Result<Admitted, Problem>) -> Caller {
    match admitted.unwrap() {
        Admitted::Caller(caller) => caller,
        Admitted::Key(key) => unreachable!("{key:?}"),
    }
}

fn keys(keys: &[&str]) -> Access {
    Access::Keys(keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect())
}

#[test]
fn every_key_is_accepted_in_either_header() {
    let access = keys(&["one", "two"]);
    for header in [
        ("authorization", "Bearer one"),
        ("authorization", "bearer two"),
        ("x-api-key", "one"),
        ("x-api-key", "two"),
        ("authorization", "Bearer  one"),
    ] {
        assert_eq!(status(&access, &parts("POST", "/webhooks", &[header])), None, "{header:?}");
    }
    let both = [("authorization", "AWS4-HMAC-SHA256 x"), ("x-api-key", "two")];
    assert_eq!(status(&access, &parts("POST", "/webhooks", &both)), None);
}

/// A rotated key, or another key of the same list, has the same identity.
#[test]
fn every_key_is_one_identity() {
    let access = keys(&["one", "two"]);
    for key in ["one", "two"] {
        let admitted = admit(&access, &parts("POST", "/webhooks", &[("x-api-key", key)]));
        assert_eq!(caller(admitted), Caller::Full(Identity::ApiKey));
    }
    assert_eq!(Identity::ApiKey.hash(), Identity::Local.hash());
}

/// A text that has the form of an application key.
const APPLICATION_KEY: &str =
    "pha.acme.key-0123456789abcdef.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// An application key leads to its application's document. Any other text that is no API key
/// is refused.
#[test]
fn an_application_key_narrows_every_kind_of_access() {
    let application = |access: &Access, headers: &[(&str, &str)]| {
        let headers = [&[("host", "localhost")], headers].concat();
        match admit(access, &parts("GET", "/applications", &headers)) {
            Ok(Admitted::Key(key)) => Ok(key.application().to_owned()),
            Ok(Admitted::Caller(caller)) => Err(Some(caller)),
            Err(problem) => {
                assert_eq!(problem.kind(), ProblemKind::Unauthorized);
                Err(None)
            }
        }
    };
    let rules = [keys(&["one"]), Access::Platform, Access::Loopback];
    let bearer = format!("Bearer {APPLICATION_KEY}");
    for access in &rules {
        for header in [("authorization", bearer.as_str()), ("x-api-key", APPLICATION_KEY)] {
            assert_eq!(application(access, &[header]).as_deref(), Ok("acme"), "{access:?}");
        }
        let malformed = [("x-api-key", &APPLICATION_KEY[..APPLICATION_KEY.len() - 1])];
        assert_eq!(application(access, &malformed), Err(None), "{access:?}");
    }
    let token = [("authorization", "Bearer eyJ"), ("x-api-key", APPLICATION_KEY)];
    for access in &rules[1..] {
        assert_eq!(application(access, &token).as_deref(), Ok("acme"), "{access:?}");
    }
    let known = [("x-api-key", APPLICATION_KEY)];
    let full = Err(Some(Caller::Full(Identity::ApiKey)));
    assert_eq!(application(&keys(&[APPLICATION_KEY]), &known), full, "API_KEYS come first");
}

/// The sessions of one role are one identity. Accounts, roles and users are different ones.
#[test]
fn an_iam_identity_is_account_and_role() {
    let sessions = ["i-0123", "ecs/task/1", "a:b", ""];
    for session in sessions {
        let arn = format!("arn:aws:sts::123456789012:assumed-role/publisher/{session}");
        assert_eq!(
            without_session(&arn),
            "arn:aws:sts::123456789012:assumed-role/publisher/",
            "{session}"
        );
    }
    for arn in [
        "arn:aws:iam::123456789012:user/team/ada",
        "arn:aws:iam::123456789012:root",
        "arn:aws:sts::123456789012:federated-user/ada",
        "arn:aws:sts::123456789012:assumed-role/publisher",
        "assumed-role/publisher/session",
        "",
    ] {
        assert_eq!(without_session(arn), arn);
    }
}

#[test]
fn anything_else_is_unauthorized() {
    let access = keys(&["one", "two"]);
    let none: &[(&str, &str)] = &[];
    for headers in [
        none,
        &[("authorization", "one")],
        &[("authorization", "Bearer")],
        &[("authorization", "Bearer ")],
        &[("authorization", "Basic one")],
        &[("authorization", "Bearer onetwo")],
        &[("x-api-key", "")],
        &[("authorization", "Bearer three"), ("x-api-key", "one")],
    ] {
        assert_eq!(
            status(&access, &parts("GET", "/webhook-statuses", headers)),
            Some(ProblemKind::Unauthorized),
            "{headers:?}"
        );
    }
}

#[test]
fn health_and_the_page_need_no_key_but_refuse_a_wrong_one() {
    let access = keys(&["one"]);
    for path in ["/health", "/"] {
        let admitted = admit(&access, &parts("GET", path, &[]));
        assert_eq!(caller(admitted), Caller::Anonymous, "{path}");
        assert_eq!(
            status(&access, &parts("GET", path, &[("x-api-key", "x")])),
            Some(ProblemKind::Unauthorized),
            "{path}"
        );
    }
}

#[test]
fn without_a_setting_every_call_is_refused() {
    assert_eq!(Access::for_lambda(&config::Access::default()), Access::Refuse);
    assert_eq!(
        status(&Access::Refuse, &parts("GET", "/health", &[])),
        Some(ProblemKind::NotConfigured)
    );
    for (auth, access) in [(Auth::Platform, Access::Platform), (Auth::Local, Access::Loopback)] {
        assert_eq!(
            Access::for_lambda(&config::Access { auth, ..config::Access::default() }),
            access
        );
        let both = config::Access { key_hashes: vec![KeyHash::of(b"one")], auth };
        assert_eq!(Access::for_lambda(&both), Access::Keys(vec![KeyHash::of(b"one")]));
    }
    assert_eq!(Access::for_loopback(&config::Access::default()), Access::Loopback);
}

#[test]
fn a_name_rebound_to_loopback_is_refused() {
    for host in ["localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.8.8.8", "[::1]:8000"] {
        assert_eq!(
            status(&Access::Loopback, &parts("GET", "/", &[("host", host)])),
            None,
            "{host}"
        );
    }
    for host in [
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "10.0.0.1",
        "[::2]",
        "127.0.0.1.evil.example",
        "",
    ] {
        assert_eq!(
            status(&Access::Loopback, &parts("GET", "/", &[("host", host)])),
            Some(ProblemKind::Forbidden),
            "{host}"
        );
    }
    assert_eq!(
        status(&Access::Loopback, &parts("GET", "/", &[])),
        Some(ProblemKind::Forbidden),
        "no Host"
    );
}

#[test]
fn a_page_of_another_origin_cannot_change_anything() {
    let call = |method, headers: &[(&str, &str)]| {
        let headers = [&[("host", "127.0.0.1:8000")], headers].concat();
        status(&Access::Loopback, &parts(method, "/webhooks", &headers))
    };
    for same in [
        ("origin", "http://127.0.0.1:8000"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-site", "none"),
    ] {
        assert_eq!(call("POST", &[same]), None, "{same:?}");
    }
    for other in [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:3000"),
        ("origin", "https://127.0.0.1:8000"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        for method in ["POST", "DELETE"] {
            assert_eq!(call(method, &[other]), Some(ProblemKind::Forbidden), "{other:?}");
        }
        assert_eq!(call("GET", &[other]), None, "the page cannot read the answer");
    }
}
