//! One request as the error writer follows it: what it needs to tell a failure.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response::Parts};
use tower_stream_core::{
    Cause, Fault, FaultKind, RequestId, StreamError, StreamKind, answer_method, grpc,
    head_replaced, retry_after,
};

use crate::{
    DefaultWriter, Failure, Tail, WriteError,
    layer::Config,
    panic::{Panicked, Payload, catch},
    request::RequestInfo,
};

#[derive(Debug)]
pub(crate) struct Case {
    pub(crate) config: Arc<Config>,
    pub(crate) fault: Fault,
    pub(crate) request: RequestInfo,
    request_id: Option<RequestId>,
}

impl Case {
    pub(crate) fn new<B>(config: Arc<Config>, request: &mut Request<B>) -> Self {
        Self {
            config,
            fault: Fault::of(request.extensions_mut()),
            request_id: RequestId::of(request.extensions()).cloned(),
            request: RequestInfo::of(request),
        }
    }

    /// The head is there: follow what the layers inside say on it.
    pub(crate) fn join(&mut self, parts: &mut Parts) {
        self.fault.join(&mut parts.extensions);
        if self.request_id.is_none() {
            self.request_id = RequestId::of(&parts.extensions).cloned();
        }
    }

    #[cold]
    pub(crate) fn panicked(&self, payload: Payload) {
        let Panicked {
            message,
            location,
            backtrace,
        } = payload.read();
        let backtrace = backtrace.map(|backtrace| backtrace.to_string());
        self.fault
            .record(Cause::new(FaultKind::Panic, message.as_str()));
        let logged = self.fault.cause_to_log();
        if let Some(cause) = logged.filter(|cause| cause.kind() == FaultKind::Panic) {
            tracing::error!(
                outcome = cause.kind().outcome().as_str(),
                kind = cause.kind().as_str(),
                error = message,
                location,
                backtrace,
                "response failed"
            );
            return;
        }
        if let Some(cause) = logged {
            log(cause);
        }
        tracing::error!(
            error = message,
            location,
            backtrace,
            "a response that has failed before panicked"
        );
    }

    /// Records, then logs. Who recorded a cause before knows better, so that one is told.
    #[cold]
    pub(crate) fn failed(&self, cause: Cause) {
        self.fault.record(cause);
        if let Some(cause) = self.fault.cause_to_log() {
            log(cause);
        }
    }

    fn cause(&self) -> Cause {
        let unknown = || Cause::new(FaultKind::Other, "the response failed");
        self.fault.cause().cloned().unwrap_or_else(unknown)
    }

    fn failure<'a>(&'a self, cause: &'a Cause, stream: StreamKind) -> Failure<'a> {
        Failure {
            cause,
            stream,
            request: &self.request,
            request_id: self.request_id.as_ref(),
            expose: self.config.expose_messages,
        }
    }

    /// The response in place of one that failed before its head was sent.
    #[cold]
    pub(crate) fn head(&self, replaced: Option<Parts>) -> Response<Bytes> {
        let cause = self.cause();
        let stream = replaced
            .as_ref()
            .map_or(StreamKind::Other, |parts| StreamKind::of(&parts.headers));
        let failure = self.failure(&cause, stream);
        let mut response = match catch(|| self.config.writer.head(&failure)) {
            Ok(response) => response,
            Err(payload) => {
                writer_panicked(payload);
                DefaultWriter.head(&failure)
            }
        };
        if let Some(parts) = replaced {
            head_replaced(&parts.headers, response.headers_mut());
        }
        let wait = cause
            .retry_after()
            .filter(|_| response.status() == StatusCode::SERVICE_UNAVAILABLE);
        if let Some(wait) = wait {
            let entry = response.headers_mut().entry(header::RETRY_AFTER);
            entry.or_insert_with(|| retry_after(wait));
        }
        answer_method(&self.request.method, &mut response);
        // for outer layers that did not see the request that this layer saw
        response.extensions_mut().insert(self.fault.clone());
        response
    }

    /// What the writer gives a body that may still be written to.
    #[cold]
    pub(crate) fn tail(&self, stream: StreamKind) -> Tail {
        let cause = self.cause();
        if cause.kind() == FaultKind::ClientLeft {
            return Tail::Abort;
        }
        let failure = self.failure(&cause, stream);
        let tail = catch(|| self.config.writer.tail(&failure)).unwrap_or_else(|payload| {
            writer_panicked(payload);
            Tail::Abort
        });
        match tail {
            Tail::Trailers(_) if !grpc::trailers_arrive(self.request.version) => Tail::Abort,
            tail => tail,
        }
    }

    /// The error that an aborted body gives.
    ///
    /// Without the error it stands for in its source chain: an `h2::Error` there would choose the code of the reset.
    pub(crate) fn error(&self) -> StreamError {
        self.cause().into()
    }
}

impl Drop for Case {
    /// Layers further in or out end responses too, and what they wrote in place may have looked well from here.
    fn drop(&mut self) {
        if self.fault.cause().is_some() {
            let logged = catch(|| self.fault.cause_to_log().map(log));
            // a subscriber may panic
            if let Err(payload) = logged {
                payload.read();
            }
        }
    }
}

#[cold]
fn log(cause: &Cause) {
    let outcome = cause.kind().outcome().as_str();
    let (kind, error) = (cause.kind().as_str(), cause.message());
    match cause.kind() {
        FaultKind::Drain => {
            tracing::info!(outcome, kind, error, "response ended by a drain");
        }
        // anyone can do that as often as they like
        FaultKind::ClientLeft => {
            tracing::debug!(outcome, kind, error, "the client left in mid-upload");
        }
        // the answer to what a client asked for, as a 404 is
        FaultKind::Grpc(code) if !grpc::is_server_error(code) => {
            tracing::info!(outcome, kind, error, "response ended with a gRPC status");
        }
        _ => tracing::error!(outcome, kind, error, "response failed"),
    }
}

fn writer_panicked(payload: Payload) {
    let Panicked {
        message, location, ..
    } = payload.read();
    tracing::error!(error = message, location, "the error writer panicked");
}
