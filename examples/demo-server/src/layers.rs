//! The layers around the public routes, in the order of the architecture.

use axum::Router;
use tower::ServiceBuilder;
use tower_stream_errors::{ErrorWriterLayer, IdleTimeoutLayer};

use crate::{State, failures::Failures};

/// Puts every layer around `routes`.
///
/// Outermost first:
/// `RequestId -> RequestSpan -> StreamMetrics -> Drain -> Digest(emit) -> [compression] ->
/// ErrorWriter -> Farewell -> IdleTimeout -> ChunkSpan -> Sequence -> Digest(verify) -> handler`.
/// A layer stands here, in its place, once its crate is in the workspace.
pub(crate) fn stack(routes: Router, state: &State) -> Router {
    routes.layer(
        ServiceBuilder::new()
            .layer(state.metrics.layer())
            // A response that fails is ended in its own format.
            .layer(ErrorWriterLayer::new().writer(Failures))
            // A stream that gives no frame for this long fails.
            .layer(IdleTimeoutLayer::new(state.args.idle_timeout)),
    )
}
