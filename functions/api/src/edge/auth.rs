//! Authentication: which callers are admitted, and their identity.

use std::net::IpAddr;

use http::{HeaderMap, Method, header, request::Parts, uri::Authority};
use lambda_http::request::RequestContext;
use sha2::{Digest, Sha256};
use shared::config::{self, Auth, KeyHash};
use subtle::{Choice, ConstantTimeEq};

use crate::problem::{Problem, ProblemKind};

/// Which callers are admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Access {
    /// Callers with one of these keys, which are stored as SHA-256 hashes. A caller sends a key as
    /// `Authorization: Bearer KEY` or `x-api-key: KEY`.
    Keys(Vec<KeyHash>),
    /// All callers. The function URL or API Gateway has authenticated them.
    Platform,
    /// All callers on this machine, except web pages of other sites, which reach the API through
    /// their visitor's browser. So the `Host` must be a loopback one (DNS rebinding), and a change
    /// must not come from another origin (forged requests).
    Loopback,
    /// No callers, because the deployment does not state who may call. Only the log names the
    /// reason.
    Refuse,
}

impl Access {
    /// The rule of the Lambda function. If there are keys, callers need one. Otherwise `API_AUTH`
    /// decides, and its value `keys` refuses every call.
    pub fn for_lambda(config: &config::Access) -> Self {
        match config.auth {
            _ if !config.key_hashes.is_empty() => Self::Keys(config.key_hashes.clone()),
            Auth::Platform => Self::Platform,
            Auth::Local => Self::Loopback,
            Auth::Keys => Self::Refuse,
        }
    }

    /// The rule of a server that listens on loopback only. If there are keys, callers need one.
    /// Otherwise all callers on this machine are admitted.
    pub fn for_loopback(config: &config::Access) -> Self {
        if config.key_hashes.is_empty() {
            Self::Loopback
        } else {
            Self::Keys(config.key_hashes.clone())
        }
    }
}

/// The identity of a caller. Idempotency keys belong to an identity.
///
/// An identity outlives sessions and API keys. Otherwise a retry from another task of the same
/// service, or after a key was rotated, would be accepted a second time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A caller with all permissions. The hash distinguishes identities.
    Known([u8; 32]),
    /// A caller without a key. It can load the operator's page, which contains no data, and read
    /// the health status.
    Anonymous,
}

/// The operator: the identity of all callers with an API key, and of all callers under the loopback
/// rule.
const OPERATOR: [u8; 32] = [0; 32];

/// The routes that need no key: the health status, and the operator's page, which asks for a key
/// itself.
const PUBLIC_PATHS: [&str; 2] = ["/health", "/"];

/// Why the Lambda function refuses every call.
#[derive(Debug, thiserror::Error)]
#[error(
    "every call is refused. Set API_KEYS, or API_AUTH=iam if the function URL or API Gateway \
     authenticates callers, or API_AUTH=local for local development"
)]
struct NoAccessSet;

/// Admits or refuses a call. Returns the caller's identity.
pub(crate) fn admit(access: &Access, parts: &Parts) -> Result<Caller, Problem> {
    match access {
        Access::Keys(hashes) => check_key(hashes, parts),
        Access::Platform => Ok(Caller::Known(platform_identity(parts))),
        Access::Loopback => {
            check_browser(parts)?;
            Ok(Caller::Known(OPERATOR))
        }
        Access::Refuse => Err(Problem::new(
            ProblemKind::NotConfigured,
            "The API is not configured to admit callers. The log states which setting is missing.",
        )
        .because(NoAccessSet)),
    }
}

fn check_key(hashes: &[KeyHash], parts: &Parts) -> Result<Caller, Problem> {
    let Some(key) = presented_key(&parts.headers) else {
        return if PUBLIC_PATHS.contains(&parts.uri.path()) {
            Ok(Caller::Anonymous)
        } else {
            Err(unauthorized("The API key is missing."))
        };
    };
    let presented = KeyHash::of(key);
    // Every key is compared, so the time does not reveal whether or which key matched.
    let known = hashes.iter().fold(Choice::from(0), |known, hash| known | hash.ct_eq(&presented));
    if bool::from(known) {
        Ok(Caller::Known(OPERATOR))
    } else {
        Err(unauthorized("The API key is invalid."))
    }
}

fn unauthorized(fault: &str) -> Problem {
    Problem::new(
        ProblemKind::Unauthorized,
        format!("{fault} Send one as 'Authorization: Bearer KEY' or 'x-api-key: KEY'."),
    )
}

/// The bearer token, or `x-api-key` if there is none. With the signature of a platform,
/// `Authorization` has another scheme.
pub(crate) fn presented_key(headers: &HeaderMap) -> Option<&[u8]> {
    let authorization = headers.get(header::AUTHORIZATION).map(http::HeaderValue::as_bytes);
    let bearer = authorization.and_then(|value| {
        let (scheme, token) = value.split_at_checked(b"Bearer ".len())?;
        scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
    });
    bearer.or_else(|| headers.get("x-api-key").map(http::HeaderValue::as_bytes))
}

/// The identity that the platform has authenticated. Callers without an ARN share one identity.
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
/// session. Each task of a service, and each instance of a function, has its own session. Any other
/// ARN is returned unchanged.
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
            ProblemKind::Forbidden,
            "Without API_KEYS, only this machine can call the API. The Host header must be \
             localhost or a loopback address.",
        ));
    };
    if matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS)
        || is_same_origin(&parts.headers, &authority)
    {
        return Ok(());
    }
    Err(Problem::new(
        ProblemKind::Forbidden,
        "Without API_KEYS, a web page of another origin cannot change anything. Set API_KEYS.",
    ))
}

fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || address.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Browsers send at least one of the two headers with every request that can change something.
/// Other clients send neither.
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

    fn status(access: &Access, parts: &Parts) -> Option<ProblemKind> {
        admit(access, parts).err().map(|problem| problem.kind())
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
        let caller =
            |key| admit(&access, &parts("POST", "/webhooks", &[("x-api-key", key)])).unwrap();
        assert_eq!(caller("one"), caller("two"));
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
            assert_eq!(
                admit(&access, &parts("GET", path, &[])).unwrap(),
                Caller::Anonymous,
                "{path}"
            );
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
}
