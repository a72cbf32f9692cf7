//! What the error writer keeps of one request to report its failure.

use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response, StatusCode, header, response::Parts};
use tower_stream_core::{
    Cause, Exchange, FaultKind, StreamKind, answer_method, grpc, head_replaced, retry_after,
};

use crate::{
    DefaultWriter, Failure, Tail, WriteError,
    layer::Config,
    panic::{Panicked, Payload, catch},
    request::RequestInfo,
};

#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) config: Arc<Config>,
    pub(crate) request: RequestInfo,
    exchange: Exchange,
}

impl Context {
    pub(crate) fn new<B>(config: &Arc<Config>, request: &Request<B>, exchange: &Exchange) -> Self {
        Self {
            config: Arc::clone(config),
            request: RequestInfo::of(request),
            exchange: exchange.clone(),
        }
    }

    /// Called when the head arrives. A request may be retried: this follows the attempt that the head belongs to.
    pub(crate) fn follow(&mut self, exchange: &Exchange) {
        self.exchange = exchange.clone();
    }

    /// Records a panic and logs it.
    #[cold]
    pub(crate) fn panicked(&self, payload: Payload) {
        let Panicked {
            message,
            location,
            backtrace,
        } = payload.read();
        let cause = Cause::new(FaultKind::Panic, message.as_str());
        self.exchange.record(cause);
        let to_log = self.exchange.cause_to_log();
        let own = to_log.filter(|cause| cause.kind() == FaultKind::Panic);
        if let (Some(earlier), None) = (to_log, own) {
            log(earlier);
        }
        if let Some(cause) = own {
            tracing::error!(
                target: "tower_stream_errors",
                outcome = cause.kind().outcome().as_str(),
                kind = cause.kind().as_str(),
                error = message,
                location,
                backtrace,
                "response failed"
            );
            return;
        }
        let what = match self.exchange.cause() {
            Some(_) => "a response that has failed before panicked",
            None => "a response panicked after its last record",
        };
        tracing::error!(
            target: "tower_stream_errors",
            error = message,
            location,
            backtrace,
            "{what}"
        );
    }

    /// Logs the recorded cause, unless another layer has.
    #[cold]
    pub(crate) fn log(&self) {
        if let Some(cause) = self.exchange.cause_to_log() {
            log(cause);
        }
    }

    /// The cause of the failure, with which an aborted body fails.
    ///
    /// It does not contain the original error, because hyper would take the reset code from an `h2::Error` there.
    pub(crate) fn cause(&self) -> Cause {
        let unknown = || Cause::new(FaultKind::Other, "the response failed");
        self.exchange.cause().cloned().unwrap_or_else(unknown)
    }

    fn failure<'a>(&'a self, cause: &'a Cause, stream: StreamKind) -> Failure<'a> {
        Failure {
            cause,
            stream,
            request: &self.request,
            request_id: self.exchange.request_id(),
            expose: self.config.expose_messages,
            dialect: self.exchange.dialect(),
        }
    }

    /// The response in place of one that failed before its head was sent.
    #[cold]
    pub(crate) fn head(&self, replaced: Option<&Parts>) -> Response<Bytes> {
        let cause = self.cause();
        let stream = replaced.map_or(StreamKind::Other, |parts| StreamKind::of(&parts.headers));
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
        // For outer layers, which did not see the request that this layer saw.
        response.extensions_mut().insert(self.exchange.clone());
        response
    }

    /// Returns how a failed body ends into which a record may still be written.
    #[cold]
    pub(crate) fn tail(&self, stream: StreamKind) -> Tail {
        let cause = self.cause();
        if matches!(cause.kind(), FaultKind::ClientLeft | FaultKind::SlowReader) {
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
}

impl Drop for Context {
    /// Another layer may have recorded a failure, and then sent something that looked like a complete response from here, or
    /// dropped the response. Nobody has logged that yet.
    fn drop(&mut self) {
        if self.exchange.cause().is_some()
            // A subscriber may panic.
            && let Err(payload) = catch(|| self.log())
        {
            payload.read();
        }
    }
}

#[cold]
fn log(cause: &Cause) {
    let outcome = cause.kind().outcome().as_str();
    let (kind, error) = (cause.kind().as_str(), cause.message());
    match cause.kind() {
        FaultKind::Drain => {
            tracing::info!(target: "tower_stream_errors", outcome, kind, error, "response ended by a drain");
        }
        // At DEBUG, because any client can disconnect during an upload as often as it likes, and would fill the log.
        FaultKind::ClientLeft => {
            tracing::debug!(target: "tower_stream_errors", outcome, kind, error, "the client left in mid-upload");
        }
        // At INFO, because a client requested it.
        FaultKind::Cancelled => {
            tracing::info!(target: "tower_stream_errors", outcome, kind, error, "response ended because its stream was cancelled");
        }
        FaultKind::SlowReader => {
            tracing::info!(target: "tower_stream_errors", outcome, kind, error, "the client stopped reading");
        }
        FaultKind::SlowUpload => {
            tracing::info!(target: "tower_stream_errors", outcome, kind, error, "the client sent too slowly");
        }
        // At INFO, because the client caused it, as it causes a 404.
        FaultKind::Grpc(code) if !grpc::is_server_error(code) => {
            tracing::info!(target: "tower_stream_errors", outcome, kind, error, "response ended with a gRPC status");
        }
        _ => {
            tracing::error!(target: "tower_stream_errors", outcome, kind, error, "response failed");
        }
    }
}

#[cold]
fn writer_panicked(payload: Payload) {
    let Panicked {
        message, location, ..
    } = payload.read();
    tracing::error!(target: "tower_stream_errors", error = message, location, "the error writer panicked");
}
