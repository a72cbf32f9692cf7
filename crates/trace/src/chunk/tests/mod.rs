mod attributes;
mod parent;
mod selection;
mod spans;

use http::Response;
use tower::Layer;
use tower_stream_core::mock::MockBody;

use crate::{
    ChunkSpanLayer, RequestSpanLayer,
    response::{ChunkSpanBody, RequestSpanBody},
    testing::{Traces, get, respond},
};

/// Our two layers around one answer.
async fn traced(
    traces: &Traces,
    layer: impl FnOnce(ChunkSpanLayer) -> ChunkSpanLayer,
    body: MockBody,
) -> RequestSpanBody<ChunkSpanBody<MockBody>> {
    let layer = layer(ChunkSpanLayer::new(traces.tracer()));
    let service = RequestSpanLayer::new().layer(layer.layer(respond(Response::new(body))));
    get(service).await.into_body()
}
