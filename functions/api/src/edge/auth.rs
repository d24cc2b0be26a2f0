//! Authentication: which callers are admitted, and their identity.

use std::net::IpAddr;

use http::{HeaderMap, Method, header, request::Parts, uri::Authority};
use lambda_http::request::RequestContext;
use sha2::{Digest, Sha256};
use shared::{
    applications::{
        access::{Access as May, Action},
        id::ApplicationId,
        keys::{ApplicationKeyId, KEY_PREFIX, PresentedKey, StoredKey},
    },
    config::{self, Auth, KeyHash},
};
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

/// The caller of an admitted request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Caller {
    /// A caller with full access.
    Full(Identity),
    /// A caller with a valid application key, alone or besides another authentication.
    Key {
        /// What it may do, in which application.
        may: May<ApplicationId>,
        /// The id of the key.
        key: ApplicationKeyId,
        /// Its name.
        name: String,
    },
    /// A caller without a key. It can load the operator's page, which contains no data, and read
    /// the health status.
    Anonymous,
}

/// The identity of a caller with full access. Idempotency keys belong to an identity; those of an
/// application's routes belong to the application instead.
///
/// An identity outlives sessions and API keys. Otherwise a retry from another task of the same
/// service, or after a key was rotated, would be accepted a second time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Identity {
    /// All callers with a key of `API_KEYS`.
    ApiKey,
    /// All callers under the loopback rule.
    Local,
    /// The ARN that the platform has authenticated, without its session. Empty without one.
    Platform(String),
}

impl Identity {
    /// The hash that distinguishes identities.
    pub(crate) fn hash(&self) -> [u8; 32] {
        match self {
            Self::ApiKey | Self::Local => OPERATOR,
            Self::Platform(arn) => Sha256::digest(arn).into(),
        }
    }
}

impl Caller {
    /// The caller with this key of an application, which is valid.
    pub(crate) fn with_key(application: &ApplicationId, key: &StoredKey) -> Self {
        Self::Key {
            may: May::Full.narrowed(application.clone(), key.scopes.clone()),
            key: key.id,
            name: key.name.as_str().to_owned(),
        }
    }

    /// The application whose key it has.
    pub(crate) const fn application(&self) -> Option<&ApplicationId> {
        match self {
            Self::Key { may: May::Key { application, .. }, .. } => Some(application),
            _ => None,
        }
    }

    /// Whether it may do this with this application. `None`: with no application in particular.
    pub(crate) fn may(
        &self,
        action: Action,
        application: Option<&ApplicationId>,
    ) -> Result<(), Problem> {
        let may = match self {
            Self::Full(_) => &May::Full,
            Self::Key { may, .. } => may,
            Self::Anonymous => return Err(missing_key()),
        };
        Ok(may.may(action, application)?)
    }

    /// Who it is, for the changes that an application lists. It contains no key.
    pub(crate) fn name(&self) -> String {
        match self {
            Self::Full(Identity::ApiKey) => "API_KEYS".to_owned(),
            Self::Full(Identity::Local) => "local".to_owned(),
            Self::Full(Identity::Platform(arn)) if arn.is_empty() => "iam".to_owned(),
            Self::Full(Identity::Platform(arn)) => arn.clone(),
            Self::Key { key, name, .. } => format!("{key} {name}"),
            Self::Anonymous => "anonymous".to_owned(),
        }
    }
}

/// A caller whom the rule admits. An application key is checked by the document of its
/// application.
#[derive(Debug)]
pub(crate) enum Admitted {
    /// The caller is known.
    Caller(Caller),
    /// The caller presents an application key, which is the whole of its access if it is valid.
    Key(PresentedKey),
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

/// Admits or refuses a call, as far as the settings decide it.
pub(crate) fn admit(access: &Access, parts: &Parts) -> Result<Admitted, Problem> {
    match access {
        Access::Keys(hashes) => check_key(hashes, parts),
        Access::Platform => narrowed(parts, || Identity::Platform(platform_identity(parts))),
        Access::Loopback => {
            check_browser(parts)?;
            narrowed(parts, || Identity::Local)
        }
        Access::Refuse => Err(Problem::new(
            ProblemKind::NotConfigured,
            "The API is not configured to admit callers. The log states which setting is missing.",
        )
        .because(NoAccessSet)),
    }
}

fn check_key(hashes: &[KeyHash], parts: &Parts) -> Result<Admitted, Problem> {
    let Some(key) = presented_key(&parts.headers) else {
        return if is_public(parts.uri.path()) {
            Ok(Admitted::Caller(Caller::Anonymous))
        } else {
            Err(missing_key())
        };
    };
    // A key of API_KEYS may begin as an application key does.
    let presented = KeyHash::of(key);
    // Every key is compared, so the time does not reveal whether or which key matched.
    let known = hashes.iter().fold(Choice::from(0), |known, hash| known | hash.ct_eq(&presented));
    if bool::from(known) {
        Ok(Admitted::Caller(Caller::Full(Identity::ApiKey)))
    } else {
        PresentedKey::parse(key).map(Admitted::Key).map_err(|_| invalid_key())
    }
}

/// The caller that the platform or this machine has authenticated, unless it also presents an
/// application key. That key narrows its access, and an invalid one is refused: a typing error must
/// not widen it.
fn narrowed(parts: &Parts, identity: impl FnOnce() -> Identity) -> Result<Admitted, Problem> {
    let keys = [bearer(&parts.headers), api_key(&parts.headers)];
    let presented = keys.into_iter().flatten().find(|key| key.starts_with(KEY_PREFIX.as_bytes()));
    match presented {
        Some(key) => PresentedKey::parse(key).map(Admitted::Key).map_err(|_| invalid_key()),
        None => Ok(Admitted::Caller(Caller::Full(identity()))),
    }
}

/// Whether the path needs no key.
pub(crate) fn is_public(path: &str) -> bool {
    PUBLIC_PATHS.contains(&path)
}

/// The key is none of the deployment and of no application.
pub(crate) fn invalid_key() -> Problem {
    unauthorized("The API key is invalid.")
}

fn missing_key() -> Problem {
    unauthorized("The API key is missing.")
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
    bearer(headers).or_else(|| api_key(headers))
}

fn bearer(headers: &HeaderMap) -> Option<&[u8]> {
    let authorization = headers.get(header::AUTHORIZATION)?.as_bytes();
    let (scheme, token) = authorization.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then(|| token.trim_ascii())
}

fn api_key(headers: &HeaderMap) -> Option<&[u8]> {
    headers.get("x-api-key").map(http::HeaderValue::as_bytes)
}

/// The identity that the platform has authenticated. Callers without an ARN share one identity.
fn platform_identity(parts: &Parts) -> String {
    let arn = match parts.extensions.get::<RequestContext>() {
        Some(RequestContext::ApiGatewayV2(context)) => context
            .authorizer
            .as_ref()
            .and_then(|authorizer| authorizer.iam.as_ref()?.user_arn.as_deref()),
        Some(RequestContext::ApiGatewayV1(context)) => context.identity.user_arn.as_deref(),
        _ => None,
    };
    without_session(arn.unwrap_or_default()).to_owned()
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
mod tests;
