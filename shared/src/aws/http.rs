//! The HTTP client of the AWS clients: reqwest, which shares the TLS library and the root
//! certificates with the sender. Unlike the sender, it may connect anywhere, because the settings
//! choose the endpoints.

use std::{error::Error, time::Duration};

use aws_smithy_runtime_api::{
    client::{
        http::{
            HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings,
            SharedHttpConnector,
        },
        orchestrator::{HttpRequest, HttpResponse},
        result::ConnectorError,
        runtime_components::RuntimeComponents,
    },
    http::StatusCode,
};
use aws_smithy_types::body::SdkBody;

use crate::tls::{self, InvalidTls};

/// The connect timeout: 2 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long an idle connection is kept. AWS closes its side after 20 s or more.
const MAX_IDLE: Duration = Duration::from_secs(15);

/// Why no HTTP client could be created.
#[derive(Debug, thiserror::Error)]
pub enum InvalidHttp {
    /// TLS cannot be configured.
    #[error(transparent)]
    Tls(#[from] InvalidTls),
    /// The HTTP library rejects its settings.
    #[error("the HTTP client for AWS cannot be set up")]
    Client(#[source] reqwest::Error),
}

/// One connection pool for all services.
#[derive(Clone, Debug)]
pub(super) struct AwsHttp {
    client: reqwest::Client,
}

impl AwsHttp {
    pub(super) fn new() -> Result<Self, InvalidHttp> {
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls::http_client()?)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(MAX_IDLE)
            .tcp_nodelay(true)
            .redirect(reqwest::redirect::Policy::none())
            // The AWS clients retry and count.
            .retry(reqwest::retry::never())
            .referer(false)
            .http1_only()
            .build()
            .map_err(InvalidHttp::Client)?;
        Ok(Self { client })
    }

    /// Sends one signed request and reads the whole response.
    pub(super) async fn send(
        &self,
        request: reqwest::Request,
    ) -> Result<http::Response<bytes::Bytes>, reqwest::Error> {
        let response = self.client.execute(request).await?;
        let mut whole = http::Response::builder().status(response.status());
        if let Some(headers) = whole.headers_mut() {
            headers.clone_from(response.headers());
        }
        let body = response.bytes().await?;
        Ok(whole.body(body).unwrap_or_default())
    }

    async fn call(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request =
            request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        // These services take only whole bodies.
        let body = bytes::Bytes::copy_from_slice(body.bytes().unwrap_or_default());
        let request = reqwest::Request::try_from(http::Request::from_parts(parts, body));
        let request = request.map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = self.send(request).await.map_err(classified)?.into_parts();
        let status = StatusCode::try_from(parts.status.as_u16())
            .map_err(|error| ConnectorError::other(error.into(), None))?;
        let mut response = HttpResponse::new(status, SdkBody::from(body));
        for (name, value) in &parts.headers {
            if let Ok(value) = value.to_str() {
                response.headers_mut().append(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(response)
    }
}

/// The clients retry broken connections and timeouts.
fn classified(error: reqwest::Error) -> ConnectorError {
    let boxed: Box<dyn Error + Send + Sync> = error.without_url().into();
    match boxed.downcast_ref::<reqwest::Error>() {
        Some(error) if error.is_timeout() => ConnectorError::timeout(boxed),
        Some(error) if error.is_builder() => ConnectorError::user(boxed),
        _ => ConnectorError::io(boxed),
    }
}

impl HttpConnector for AwsHttp {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let http = self.clone();
        HttpConnectorFuture::new(async move { Self::call(&http, request).await })
    }
}

impl HttpClient for AwsHttp {
    fn http_connector(
        &self,
        _: &HttpConnectorSettings,
        _: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}
