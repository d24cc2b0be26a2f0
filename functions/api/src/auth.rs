//! Who may call.

use std::net::IpAddr;

use http::{HeaderMap, Method, header, request::Parts, uri::Authority};
use lambda_http::request::RequestContext;
use sha2::{Digest, Sha256};
use shared::config::{self, Auth, KeyHash};
use subtle::{Choice, ConstantTimeEq};

use crate::problem::{Kind, Problem};

/// Who may call the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Who presents one of these keys (their SHA-256), as `Authorization: Bearer KEY` or
    /// `x-api-key: KEY`.
    Keys(Vec<KeyHash>),
    /// Everybody who gets here: the function URL or API Gateway has checked.
    Platform,
    /// Everybody on this machine, except web pages: a page of another site must not reach the API
    /// through its visitor's browser, so the `Host` must be a loopback one (DNS rebinding) and a
    /// change must not come from another origin (forged requests).
    Loopback,
    /// Nobody: it is not set who may. The reason is for the log only.
    Refuse,
}

impl Access {
    /// For the Lambda function: keys if there are any. Otherwise `API_AUTH` decides, and `keys`
    /// refuses every call.
    pub fn for_lambda(config: &config::Access) -> Self {
        match config.auth {
            _ if !config.key_hashes.is_empty() => Self::Keys(config.key_hashes.clone()),
            Auth::Platform => Self::Platform,
            Auth::Local => Self::Loopback,
            Auth::Keys => Self::Refuse,
        }
    }

    /// For a server that listens on loopback only: keys if there are any, else everybody on this
    /// machine.
    pub fn for_loopback(config: &config::Access) -> Self {
        if config.key_hashes.is_empty() {
            Self::Loopback
        } else {
            Self::Keys(config.key_hashes.clone())
        }
    }
}

/// Who calls: the scope of idempotency keys.
///
/// An identity outlives a session and a key. Otherwise a retry that another task of the same
/// service sends, or that is sent after a key was rotated, would be accepted a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A caller that may do everything. The hash tells identities apart.
    Known([u8; 32]),
    /// Somebody who may only see the operator's empty page, and know whether Posthaste is well.
    Anonymous,
}

/// The identity of every caller with a key of `API_KEYS`, and of every caller under the loopback
/// rule: the operator.
const OPERATOR: [u8; 32] = [0; 32];

/// The routes that answer without a key: whether Posthaste is well, and the operator's page, which
/// asks for one itself.
const OPEN: [&str; 2] = ["/health", "/"];

/// Why the Lambda function refuses every call.
#[derive(Debug, thiserror::Error)]
#[error(
    "every call is refused: set API_KEYS, or API_AUTH=iam if the function URL or API Gateway \
     checks who calls, or API_AUTH=local for local work"
)]
struct NoAccessSet;

/// Whether this call may be made, and by whom it is.
pub(crate) fn admit(access: &Access, parts: &Parts) -> Result<Caller, Problem> {
    match access {
        Access::Keys(hashes) => check_key(hashes, parts),
        Access::Platform => Ok(Caller::Known(platform_identity(parts))),
        Access::Loopback => {
            check_browser(parts)?;
            Ok(Caller::Known(OPERATOR))
        }
        Access::Refuse => Err(Problem::new(
            Kind::NotConfigured,
            "The API is not set up to be called; its log says why.",
        )
        .because(NoAccessSet)),
    }
}

fn check_key(hashes: &[KeyHash], parts: &Parts) -> Result<Caller, Problem> {
    let Some(key) = presented_key(&parts.headers) else {
        return if OPEN.contains(&parts.uri.path()) {
            Ok(Caller::Anonymous)
        } else {
            Err(unauthorized("No API key was sent."))
        };
    };
    let presented = KeyHash::of(key);
    // Every key is compared, so the time tells neither whether nor where one matched.
    let known = hashes.iter().fold(Choice::from(0), |known, hash| known | hash.ct_eq(&presented));
    if bool::from(known) {
        Ok(Caller::Known(OPERATOR))
    } else {
        Err(unauthorized("The API key is not valid."))
    }
}

fn unauthorized(what: &str) -> Problem {
    Problem::new(
        Kind::Unauthorized,
        format!("{what} Send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."),
    )
}

/// The bearer token; without one, `x-api-key`. Under a platform's own signature, `Authorization` is
/// another scheme's.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let authorization = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    let bearer = authorization.and_then(|value| {
        let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(http::HeaderValue::as_bytes))
}

/// The identity that the platform vouches for. Callers that it does not name share one.
fn platform_identity(parts: &Parts) -> [u8; 32] {
    let arn = match parts.extensions.get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => context
            .authorizer
            .as_ref()
            .and_then(|authorizer| authorizer.iam.as_ref()?.user_arn.as_deref()),
        Some(RequestContext::ApiGatewayV1(context)) => context.identity.user_arn.as_deref(),
        _ => None,
    };
    Sha256::digest(without_session(arn.unwrap_or_default())).into()
}

/// The ARN of a role's session, `arn:PARTITION:sts::ACCOUNT:assumed-role/ROLE/SESSION`, without its
/// session: each task of a service, and each instance of a function, has a session of its own. Any
/// other ARN is returned as it is.
fn without_session(arn: &str) -> &str {
    let resource = arn.splitn(6, ':').nth(5).unwrap_or_default();
    let Some(session) =
        resource.strip_prefix("assumed-role/").and_then(|role| Some(role.split_once('/')?.1))
    else {
        return arn;
    };
    arn.strip_suffix(session).unwrap_or(arn)
}

fn check_browser(parts: &Parts) -> Result<(), Problem> {
    let host = parts.headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let Some(authority) = host
        .and_then(|host| host.parse::<Authority>().ok())
        .filter(|host| is_loopback(host.host()))
    else {
        return Err(Problem::new(
            Kind::Forbidden,
            "Without API_KEYS only this machine may call: the Host header must be localhost or a \
             loopback address.",
        ));
    };
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
        || is_same_origin(&parts.headers, &authority)
    {
        return Ok(());
    }
    Err(Problem::new(
        Kind::Forbidden,
        "Without API_KEYS, a web page of another origin may not change anything; set API_KEYS.",
    ))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Browsers send at least one of the two with every request that can change something; other
/// clients send neither.
fn is_same_origin(headers: &HeaderMap, host: &Authority) -> bool {
    let site =
        headers.get("sec-fetch-site").is_none_or(|site| site == "same-origin" || site == "none");
    let origin = headers.get(header::ORIGIN).is_none_or(|origin| {
        let authority = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host.as_str()))
    });
    site && origin
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn parts(method: &str, path: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    fn status(access: &Access, parts: &Parts) -> Option<Kind> {
        admit(access, parts).err().map(|problem| problem.kind())
    }

    fn keys(keys: &[&str]) -> Access {
        Access::Keys(keys.iter().map(|key| KeyHash::of(key.as_bytes())).collect())
    }

    #[test]
    fn any_of_the_keys_is_taken_in_either_header() {
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

    /// A rotated key, or another key of the same list, is the same identity.
    #[test]
    fn every_key_is_one_identity() {
        let access = keys(&["one", "two"]);
        let caller =
            |key| admit(&access, &parts("POST", "/webhooks", &[("x-api-key", key)])).unwrap();
        assert_eq!(caller("one"), caller("two"));
    }

    /// The sessions of one role are one identity. Accounts, roles and users are told apart.
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
                Some(Kind::Unauthorized),
                "{headers:?}"
            );
        }
    }

    #[test]
    fn health_and_the_page_are_answered_to_anybody_without_a_key_but_a_wrong_key_is_wrong() {
        let access = keys(&["one"]);
        for path in ["/health", "/"] {
            assert_eq!(
                admit(&access, &parts("GET", path, &[])).unwrap(),
                Caller::Anonymous,
                "{path}"
            );
            assert_eq!(
                status(&access, &parts("GET", path, &[("x-api-key", "x")])),
                Some(Kind::Unauthorized),
                "{path}"
            );
        }
    }

    #[test]
    fn without_a_setting_nobody_may() {
        assert_eq!(Access::for_lambda(&config::Access::default()), Access::Refuse);
        assert_eq!(
            status(&Access::Refuse, &parts("GET", "/health", &[])),
            Some(Kind::NotConfigured)
        );
        for (auth, access) in [(Auth::Platform, Access::Platform), (Auth::Local, Access::Loopback)]
        {
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
                Some(Kind::Forbidden),
                "{host}"
            );
        }
        assert_eq!(
            status(&Access::Loopback, &parts("GET", "/", &[])),
            Some(Kind::Forbidden),
            "no Host"
        );
    }

    #[test]
    fn a_page_of_another_origin_changes_nothing() {
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
                assert_eq!(call(method, &[other]), Some(Kind::Forbidden), "{other:?}");
            }
            assert_eq!(call("GET", &[other]), None, "the page cannot read the answer");
        }
    }
}
