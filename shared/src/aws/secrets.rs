//! Settings that are secrets can stay out of the environment, which everybody who may describe a
//! function can read. Such a setting's value is a reference, which is resolved once at start:
//!
//! - `ssm:NAME`: the parameter with this name in Systems Manager Parameter Store, decrypted if it
//!   is a `SecureString`
//! - `secretsmanager:ID`: the secret with this name or ARN in Secrets Manager
//! - `secretsmanager:ID#KEY`: the string under this key of the secret, which is a JSON object
//!
//! Each service gets one kind of signed JSON request, so the SDK's clients would add much code for
//! two calls. Processes that start later see a new value of a secret.

use std::{collections::HashMap, fmt, time::Duration};

use aws_credential_types::Credentials;
use aws_sdk_sqs::config::endpoint::{DefaultResolver, Params, ResolveEndpoint};
use aws_sigv4::{
    http_request::{SignableBody, SignableRequest, SigningSettings, sign},
    sign::v4,
};
use bytes::Bytes;
use serde_json::{Value, json};
use tokio::{
    sync::OnceCell,
    time::{sleep, timeout},
};

use super::{MAX_TRIES, TRY_LIMIT, http::AwsHttp};
use crate::{
    clock::{Clock, SystemClock},
    error_chain::one_line,
};

/// The settings that may be references.
pub const REFERABLE: [&str; 9] = [
    "API_KEYS",
    "MASTER_KEY",
    "WEBHOOK_HMAC_SECRET",
    "STATUS_REDIS_URL",
    "QUEUE_REDIS_URL",
    "WEBHOOK_CA_FILE",
    "WEBHOOK_CLIENT_CERT_FILE",
    "WEBHOOK_CLIENT_KEY_FILE",
    "WEBHOOK_PROXY_URL",
];

/// The wait before the second try. It doubles.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// A reference that cannot be resolved. The text contains no secret.
#[derive(Debug, thiserror::Error)]
#[error("{variable} refers to {reference}, which cannot be read: {fault}")]
pub struct UnreadableSecret {
    /// The setting.
    pub variable: &'static str,
    /// The reference.
    pub reference: String,
    /// The cause, in the service's words if it answered.
    pub fault: String,
}

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Reference<'a> {
    Parameter(&'a str),
    Secret { id: &'a str, key: Option<&'a str> },
}

impl<'a> Reference<'a> {
    fn parse(value: &'a str) -> Option<Self> {
        let value = value.trim();
        if let Some(name) = value.strip_prefix("ssm:") {
            return Some(Self::Parameter(name));
        }
        let secret = value.strip_prefix("secretsmanager:")?;
        Some(match secret.split_once('#') {
            Some((id, key)) => Self::Secret { id, key: Some(key) },
            None => Self::Secret { id: secret, key: None },
        })
    }

    /// The service, `X-Amz-Target`, the variable of its endpoint, and the request.
    fn request(&self) -> (&'static str, &'static str, &'static str, Value) {
        match self {
            Self::Parameter(name) => (
                "ssm",
                "AmazonSSM.GetParameter",
                "AWS_ENDPOINT_URL_SSM",
                json!({ "Name": name, "WithDecryption": true }),
            ),
            Self::Secret { id, .. } => (
                "secretsmanager",
                "secretsmanager.GetSecretValue",
                "AWS_ENDPOINT_URL_SECRETS_MANAGER",
                json!({ "SecretId": id }),
            ),
        }
    }

    /// The secret in the response.
    fn secret_in(&self, answer: &Value) -> Result<String, String> {
        let text = |value: Option<&Value>, what: &str| {
            value.and_then(Value::as_str).map(str::to_owned).ok_or_else(|| what.to_owned())
        };
        match self {
            Self::Parameter(_) => {
                text(answer.pointer("/Parameter/Value"), "the answer has no value")
            }
            Self::Secret { key: None, .. } => text(answer.get("SecretString"), "it is not a text"),
            Self::Secret { key: Some(key), .. } => {
                let whole = text(answer.get("SecretString"), "it is not a text")?;
                // The error would quote the secret.
                let object: Value =
                    serde_json::from_str(&whole).map_err(|_| "it is not a JSON object")?;
                text(object.get(key), &format!("it has no string under '{key}'"))
            }
        }
    }
}

/// Resolves the settings that are references. Without one, the result is empty and no request is
/// sent.
pub async fn resolve(
    environment: impl Fn(&str) -> Option<String>,
) -> Result<HashMap<&'static str, String>, UnreadableSecret> {
    let mut resolved = HashMap::new();
    let mut client = None;
    for variable in REFERABLE {
        let Some(value) = environment(variable) else { continue };
        let Some(reference) = Reference::parse(&value) else { continue };
        let unreadable = |fault: String| UnreadableSecret {
            variable,
            reference: value.trim().to_owned(),
            fault,
        };
        let client = if let Some(client) = &client {
            client
        } else {
            let http = AwsHttp::new().map_err(|error| unreadable(error.to_string()))?;
            client.insert(Client { http, domain: OnceCell::new() })
        };
        let answer = ask_patiently(client, &reference, &environment).await.map_err(unreadable)?;
        resolved.insert(variable, reference.secret_in(&answer).map_err(unreadable)?);
    }
    Ok(resolved)
}

/// What all requests share.
struct Client {
    http: AwsHttp,
    /// The domain of the region's public endpoints, after a reference needed it.
    domain: OnceCell<String>,
}

/// Why a service returned no secret.
struct Refused {
    fault: String,
    is_final: bool,
}

async fn ask_patiently(
    client: &Client,
    reference: &Reference<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Value, String> {
    let mut wait = FIRST_WAIT;
    let mut tries_left = MAX_TRIES;
    loop {
        tries_left -= 1;
        let asked = timeout(TRY_LIMIT, ask(client, reference, &environment)).await;
        match asked.unwrap_or_else(|_| {
            Err(Refused { fault: "no answer in time".to_owned(), is_final: false })
        }) {
            Ok(answer) => return Ok(answer),
            Err(refused) if refused.is_final || tries_left == 0 => return Err(refused.fault),
            Err(_) => sleep(wait).await,
        }
        wait *= 2;
    }
}

async fn ask(
    client: &Client,
    reference: &Reference<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<Value, Refused> {
    let is_final = |fault| Refused { fault, is_final: true };
    let request = signed(client, reference, environment).await.map_err(is_final)?;
    let answer = client
        .http
        .send(request)
        .await
        .map_err(|error| Refused { fault: one_line(&error.without_url()), is_final: false })?;
    let (status, body) = (answer.status(), answer.into_body());
    let parsed: Value = serde_json::from_slice(&body).unwrap_or_default();
    if status.is_success() {
        return Ok(parsed);
    }
    let text = |name: &str| parsed.get(name).and_then(Value::as_str).unwrap_or_default();
    let kind = text("__type").rsplit('#').next().unwrap_or_default().to_owned();
    let message = if text("message").is_empty() { text("Message") } else { text("message") };
    let is_final = status.is_client_error() && status.as_u16() != 429 && !kind.contains("Throttl");
    Err(Refused {
        fault: format!("{kind} (status {}) {message}", status.as_u16()).trim().to_owned(),
        is_final,
    })
}

async fn signed(
    client: &Client,
    reference: &Reference<'_>,
    environment: impl Fn(&str) -> Option<String>,
) -> Result<reqwest::Request, String> {
    let set = |name: &str| environment(name).filter(|value| !value.trim().is_empty());
    let need = |name: &str| set(name).ok_or_else(|| format!("{name} is not set"));
    let region =
        set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")).ok_or("AWS_REGION is not set")?;
    let credentials = Credentials::new(
        need("AWS_ACCESS_KEY_ID")?,
        need("AWS_SECRET_ACCESS_KEY")?,
        set("AWS_SESSION_TOKEN"),
        None,
        "environment",
    );
    let (service, target, endpoint_variable, body) = reference.request();
    let configured = set(endpoint_variable).or_else(|| set("AWS_ENDPOINT_URL"));
    let endpoint = if let Some(endpoint) = configured {
        endpoint
    } else {
        let domain = client.domain.get_or_try_init(|| domain(&region)).await?;
        format!("https://{service}.{domain}")
    };
    let body = body.to_string();
    let invalid = |error: &dyn fmt::Display| format!("the request cannot be made: {error}");
    let mut request = http::Request::post(&endpoint)
        .header("content-type", "application/x-amz-json-1.1")
        .header("x-amz-target", target)
        .body(Bytes::from(body))
        .map_err(|error| invalid(&error))?;
    let identity = credentials.into();
    let params = v4::SigningParams::builder()
        .identity(&identity)
        .region(&region)
        .name(service)
        .time(std::time::UNIX_EPOCH + SystemClock.now().since(crate::clock::Timestamp::default()))
        .settings(SigningSettings::default())
        .build()
        .map_err(|error| invalid(&error))?
        .into();
    let headers = [("content-type", "application/x-amz-json-1.1"), ("x-amz-target", target)];
    let uri = request.uri().to_string();
    let signable = SignableRequest::new(
        "POST",
        &uri,
        headers.into_iter(),
        SignableBody::Bytes(request.body()),
    )
    .map_err(|error| invalid(&error))?;
    let (instructions, _) = sign(signable, &params).map_err(|error| invalid(&error))?.into_parts();
    instructions.apply_to_request_http1x(&mut request);
    reqwest::Request::try_from(request).map_err(|error| invalid(&error))
}

/// The part of a region's public endpoints after the service's name. The SDK knows the domain of
/// each partition, so this asks it for the endpoint of SQS.
async fn domain(region: &str) -> Result<String, String> {
    let unknown = |why: &str| format!("no endpoint is known for the region '{region}': {why}");
    let params = Params::builder().region(region).build();
    let params = params.map_err(|error| unknown(&error.to_string()))?;
    let resolver = DefaultResolver::new();
    let endpoint = resolver.resolve_endpoint(&params).await;
    let endpoint = endpoint.map_err(|error| unknown(&error.to_string()))?;
    let rest = endpoint.url().strip_prefix("https://sqs.");
    let rest = rest.ok_or_else(|| unknown("the SDK names another form"))?;
    Ok(rest.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_partition_has_its_own_domain() {
        for (region, expected) in [
            ("eu-west-1", "eu-west-1.amazonaws.com"),
            ("us-gov-west-1", "us-gov-west-1.amazonaws.com"),
            ("cn-north-1", "cn-north-1.amazonaws.com.cn"),
            ("us-iso-east-1", "us-iso-east-1.c2s.ic.gov"),
            ("eusc-de-east-1", "eusc-de-east-1.amazonaws.eu"),
        ] {
            assert_eq!(domain(region).await.unwrap(), expected, "{region}");
        }
    }

    #[test]
    fn references_are_told_from_secrets() {
        assert_eq!(
            Reference::parse(" ssm:/posthaste/keys "),
            Some(Reference::Parameter("/posthaste/keys"))
        );
        let arn = "arn:aws:secretsmanager:eu-west-1:1:secret:a-b";
        let value = format!("secretsmanager:{arn}#API_KEYS");
        assert_eq!(
            Reference::parse(&value),
            Some(Reference::Secret { id: arn, key: Some("API_KEYS") })
        );
        assert_eq!(
            Reference::parse("secretsmanager:posthaste"),
            Some(Reference::Secret { id: "posthaste", key: None })
        );
        for secret in ["whsec_c3NtOg==", "rediss://user:ssm@host/2", "sha256:00", "key1,key2"] {
            assert_eq!(Reference::parse(secret), None, "{secret}");
        }
    }

    #[test]
    fn a_key_of_a_secret_is_found_and_an_error_never_quotes_it() {
        let answer = json!({ "SecretString": r#"{"A":"one","N":7}"# });
        let of = |key| Reference::Secret { id: "s", key }.secret_in(&answer);
        assert_eq!(of(Some("A")).unwrap(), "one");
        assert_eq!(of(None).unwrap(), r#"{"A":"one","N":7}"#);
        for (key, secret) in [
            ("B", json!({ "SecretString": r#"{"A":"hunter2"}"# })),
            ("A", json!({ "SecretString": "hunter2" })),
        ] {
            let fault =
                Reference::Secret { id: "s", key: Some(key) }.secret_in(&secret).unwrap_err();
            assert!(!fault.contains("hunter2"), "{fault}");
        }
    }

    #[tokio::test]
    async fn without_references_nobody_is_asked() {
        let environment = |name: &str| (name == "API_KEYS").then(|| "plain".to_owned());
        assert!(resolve(environment).await.unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_reference_without_credentials_names_the_setting_and_what_is_missing() {
        let environment = |name: &str| match name {
            "WEBHOOK_HMAC_SECRET" => Some("ssm:/posthaste/hmac".to_owned()),
            "AWS_REGION" => Some("eu-west-1".to_owned()),
            _ => None,
        };
        let error = resolve(environment).await.unwrap_err().to_string();
        assert!(
            error.contains("WEBHOOK_HMAC_SECRET") && error.contains("AWS_ACCESS_KEY_ID is not set"),
            "{error}"
        );
    }
}
