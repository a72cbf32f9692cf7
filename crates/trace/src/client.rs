//! The HTTP client of the OTLP exporter.

use std::{error::Error, fmt::Write, thread, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response, Uri};
use opentelemetry_http::{HttpClient, HttpError};
use opentelemetry_otlp::ExporterBuildError;

use crate::loss::Destination;

/// Records the endpoint and the cause of a failure, because the exporter only reports "network error".
#[derive(Debug)]
pub(crate) struct Client {
    inner: reqwest::blocking::Client,
    destination: Destination,
}

impl Client {
    pub(crate) fn new(destination: Destination) -> Result<Self, ExporterBuildError> {
        let builder = || {
            reqwest::blocking::Client::builder()
                .timeout(timeout(|name| std::env::var(name).ok()))
                .build()
        };
        // On a separate thread: a blocking client cannot be created inside of a runtime, where the caller may be.
        let inner = match thread::spawn(builder).join() {
            Ok(inner) => inner.map_err(|error| error.to_string()),
            Err(_) => Err("its thread panicked".to_owned()),
        };
        let failed = |error| ExporterBuildError::InternalFailure(format!("HTTP client: {error}"));
        Ok(Self {
            inner: inner.map_err(failed)?,
            destination,
        })
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let endpoint = printable(request.uri());
        let result = self.inner.send_bytes(request).await;
        let error = result.as_ref().err().map(|error| chain(&**error));
        self.destination.attempted(endpoint, error);
        result
    }
}

/// The timeout of an export from OpenTelemetry's environment variables: milliseconds, 10 s by default.
fn timeout(variable: impl Fn(&str) -> Option<String>) -> Duration {
    [
        "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
        "OTEL_EXPORTER_OTLP_TIMEOUT",
    ]
    .into_iter()
    .find_map(|name| variable(name)?.trim().parse().ok())
    .map_or(Duration::from_secs(10), Duration::from_millis)
}

/// The URL without credentials and query.
fn printable(url: &Uri) -> String {
    let scheme = url.scheme_str().unwrap_or_default();
    let host = url.host().unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}"));
    let path = url.path();
    format!("{scheme}://{host}{}{path}", port.unwrap_or_default())
}

/// The causes of an error without its own message, which repeats the URL. If there are no causes, its message.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = String::new();
    let mut next = error.source();
    while let Some(error) = next {
        let separator = if text.is_empty() { "" } else { ": " };
        let _ = write!(text, "{separator}{error}");
        next = error.source();
    }
    if text.is_empty() {
        error.to_string()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_in_the_endpoint_are_not_logged() {
        let url = "https://user:secret@otel.example:4318/v1/traces?key=secret";
        let url = printable(&url.parse().unwrap());
        assert_eq!(url, "https://otel.example:4318/v1/traces");
    }

    #[test]
    fn the_timeout_of_traces_goes_before_that_of_all_signals() {
        let timeout = |set: &[(&str, &str)]| {
            timeout(|name| {
                let found = set.iter().find(|(key, _)| *key == name);
                found.map(|(_, value)| (*value).to_owned())
            })
        };
        let all = ("OTEL_EXPORTER_OTLP_TIMEOUT", "2000");
        let traces = ("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "500");
        assert_eq!(timeout(&[]), Duration::from_secs(10));
        assert_eq!(timeout(&[all]), Duration::from_secs(2));
        assert_eq!(timeout(&[all, traces]), Duration::from_millis(500));
    }
}
