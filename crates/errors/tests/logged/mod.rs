//! A response that plays a script under the error writer, and the lines that are logged meanwhile.

use std::{convert::Infallible, io, sync::Arc};

use http::{Request, Response};
use http_body_util::BodyExt;
use parking_lot::Mutex;
use serde_json::Value;
use tower::{ServiceExt, service_fn};
use tower_layer::Layer;
use tower_stream_core::mock::{MockBody, Step};
use tower_stream_errors::ErrorWriterLayer;
use tracing_subscriber::fmt::MakeWriter;

/// What is sent of a body that plays these steps.
pub(crate) async fn send(content_type: &str, steps: impl IntoIterator<Item = Step>) -> String {
    let response = Response::builder().header("content-type", content_type);
    let mut response = Some(response.body(MockBody::new(steps)).unwrap());
    let service = service_fn(move |_: Request<()>| {
        let response = response.take().unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    let service = ErrorWriterLayer::new().layer(service);
    let mut body = service.oneshot(Request::new(())).await.unwrap().into_body();
    let mut text = String::new();
    while let Some(Ok(frame)) = body.frame().await {
        text += std::str::from_utf8(&frame.into_data().unwrap()).unwrap();
    }
    text
}

/// A log of JSON, in memory.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

impl Lines {
    /// The lines since the last call.
    pub(crate) fn events(&self) -> Vec<Value> {
        let bytes = std::mem::take(&mut *self.0.lock());
        let parse = |line: &str| serde_json::from_str(line).unwrap();
        String::from_utf8(bytes)
            .unwrap()
            .lines()
            .map(parse)
            .collect()
    }
}
