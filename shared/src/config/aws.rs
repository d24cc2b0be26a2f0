//! The endpoints of DynamoDB and SQS, and the credentials for them.
//!
//! The names are those of Amazon's own tools. On Lambda the platform sets region and credentials,
//! which are valid for the life of the process.

use std::fmt;

use url::Url;

use super::{QueueBackend, StoreBackend, parse::Reader};

/// The shortest and the longest table name that DynamoDB allows.
const TABLE_NAME_CHARS: std::ops::RangeInclusive<usize> = 3..=255;

/// `AWS_*`, `TABLE_NAME`, `QUEUE_URL`, `DEAD_LETTER_QUEUE_URL`. Empty if no backend needs them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AwsSettings {
    /// `AWS_REGION`, else `AWS_DEFAULT_REGION`.
    pub region: String,
    /// `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`, `AWS_SESSION_TOKEN`.
    pub credentials: AwsCredentials,
    /// `AWS_ENDPOINT_URL_DYNAMODB`, else `AWS_ENDPOINT_URL`: an emulator, or a private endpoint.
    pub dynamodb_endpoint: Option<String>,
    /// `AWS_ENDPOINT_URL_SQS`, else `AWS_ENDPOINT_URL`.
    pub sqs_endpoint: Option<String>,
    /// `TABLE_NAME`.
    pub table_name: String,
    /// `QUEUE_URL`.
    pub queue_url: String,
    /// `DEAD_LETTER_QUEUE_URL`.
    pub dead_letter_queue_url: String,
    /// `AWS_LAMBDA_FUNCTION_NAME`, which Lambda sets. Each call sends it, so an audit trail shows
    /// which function called.
    pub function_name: Option<String>,
}

/// The credentials for AWS. `Debug` shows only the key's ID.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct AwsCredentials {
    /// The key's ID.
    pub access_key_id: String,
    /// The key that signs.
    pub secret_access_key: String,
    /// The token of temporary credentials.
    pub session_token: Option<String>,
}

impl fmt::Debug for AwsCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AwsCredentials")
            .field("access_key_id", &self.access_key_id)
            .finish_non_exhaustive()
    }
}

impl AwsSettings {
    /// Reads the settings. What a chosen backend needs must be set.
    pub(super) fn read(
        read: &mut Reader<'_>,
        status_backend: StoreBackend,
        queue_backend: QueueBackend,
    ) -> Self {
        let (table, queues) =
            (status_backend == StoreBackend::DynamoDb, queue_backend == QueueBackend::Sqs);
        let mut settings = Self::default();
        if table {
            settings.table_name = read.needed("TABLE_NAME", "STATUS_BACKEND=dynamodb", "posthaste");
            settings.dynamodb_endpoint = read.endpoint("AWS_ENDPOINT_URL_DYNAMODB");
            let sane = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            let name = &settings.table_name;
            if !name.is_empty()
                && (!TABLE_NAME_CHARS.contains(&name.len()) || !name.bytes().all(sane))
            {
                let fault =
                    format!("is '{name}', but must be 3 to 255 of A-Z, a-z, 0-9, '-', '_' and '.'");
                read.fault("TABLE_NAME", &fault, "posthaste");
            }
        }
        if queues {
            settings.queue_url = read.queue_url("QUEUE_URL");
            settings.dead_letter_queue_url = read.queue_url("DEAD_LETTER_QUEUE_URL");
            settings.sqs_endpoint = read.endpoint("AWS_ENDPOINT_URL_SQS");
            if !settings.queue_url.is_empty()
                && settings.queue_url == settings.dead_letter_queue_url
            {
                read.fault(
                    "DEAD_LETTER_QUEUE_URL",
                    "is the same as QUEUE_URL",
                    "a second queue's URL",
                );
            }
        }
        if table || queues {
            let needs_it = if table { "STATUS_BACKEND=dynamodb" } else { "QUEUE_BACKEND=sqs" };
            settings.function_name =
                Some(read.text("AWS_LAMBDA_FUNCTION_NAME", "")).filter(|name| !name.is_empty());
            settings.region = read.text("AWS_REGION", &read.text("AWS_DEFAULT_REGION", ""));
            if settings.region.is_empty() {
                read.needed("AWS_REGION", needs_it, "us-east-1");
            }
            settings.credentials = AwsCredentials {
                access_key_id: read.needed(
                    "AWS_ACCESS_KEY_ID",
                    needs_it,
                    "AKIA…, as Lambda sets it",
                ),
                secret_access_key: read.needed(
                    "AWS_SECRET_ACCESS_KEY",
                    needs_it,
                    "the key's secret, as Lambda sets it",
                ),
                session_token: Some(read.text("AWS_SESSION_TOKEN", ""))
                    .filter(|token| !token.is_empty()),
            };
        }
        settings
    }
}

impl Reader<'_> {
    /// A value that a chosen backend requires.
    fn needed(&mut self, variable: &str, by: &str, example: &str) -> String {
        if !self.is_set(variable) {
            self.fault(variable, &format!("is not set, but {by} needs it"), example);
        }
        self.text(variable, "")
    }

    /// The service's own endpoint, or the one for all services.
    fn endpoint(&mut self, variable: &str) -> Option<String> {
        let variable = if self.is_set(variable) { variable } else { "AWS_ENDPOINT_URL" };
        if !self.is_set(variable) {
            return None;
        }
        Some(self.http_url(variable, "http://127.0.0.1:4566"))
    }

    fn queue_url(&mut self, variable: &str) -> String {
        let example = "https://sqs.us-east-1.amazonaws.com/123456789012/posthaste";
        let url = self.needed(variable, "QUEUE_BACKEND=sqs", example);
        if url.is_empty() { url } else { self.http_url(variable, example) }
    }

    fn http_url(&mut self, variable: &str, example: &str) -> String {
        let value = self.text(variable, "");
        if !Url::parse(&value)
            .is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        {
            self.fault(
                variable,
                &format!("is '{value}', but must be a URL that begins with http:// or https://"),
                example,
            );
        }
        value
    }
}
