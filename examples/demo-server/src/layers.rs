//! The layers around the public routes, in the order of the architecture.

use axum::Router;
use tower::ServiceBuilder;
use tower_http::timeout::ResponseBodyTimeoutLayer;

use crate::State;

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
            // A stream that gives no frame for this long fails.
            .layer(ResponseBodyTimeoutLayer::new(state.args.idle_timeout)),
    )
}
