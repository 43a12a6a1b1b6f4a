//! The SDK's requests: HTTP/1.1 over TLS over whatever [`crate::net::way`] gives. The SDK's own client brings HTTP/2 and
//! a second way of its own, half a megabyte that Firehose has no use for.

use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, SharedHttpClient, SharedHttpConnector, http_client_fn,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;

use crate::config;
use crate::forward::Failure;
use crate::net::{IdentityFiles, Way};

#[derive(Debug, Clone)]
struct Through(Client<HttpsConnector<Way>, SdkBody>);

/// Reads the CAs, and the proxy's credentials. Blocking for a moment.
pub(super) fn client(config: &config::Firehose) -> Result<SharedHttpClient, Failure> {
    let way =
        Way::new(config.proxy.as_deref(), config.proxy_credentials_file.as_deref()).map_err(|error| {
            Failure::new("proxy", error.to_string())
                .remedy("correct [[uplink]].proxy and proxy_credentials_file")
        })?;
    let files = IdentityFiles { ca: config.ca.clone(), pair: None };
    let identity = files.read(None).map_err(|error| {
        Failure::new("setup", error.to_string())
            .remedy("correct [[uplink]].ca, or without one install the package ca-certificates")
    })?;
    let https = HttpsConnectorBuilder::new()
        .with_tls_config(identity.tls.as_ref().clone())
        .https_or_http()
        .enable_http1()
        .wrap_connector(way);
    let through = Through(Client::builder(TokioExecutor::new()).build(https));
    let connector = SharedHttpConnector::new(through);
    Ok(http_client_fn(move |_, _| connector.clone()))
}

impl HttpConnector for Through {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let client = self.0.clone();
        HttpConnectorFuture::new(async move {
            let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
            let response = client.request(request).await.map_err(|error| ConnectorError::io(error.into()))?;
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}
