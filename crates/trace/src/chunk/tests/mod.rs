mod attributes;
mod parent;
mod selection;
mod spans;

use http::Response;
use tower::Layer;
use tower_stream_core::{mock::MockBody, wrapper::ResponseBody};

use crate::{
    ChunkSpanLayer, RequestSpanLayer,
    testing::{Traces, get, respond},
};

/// Both layers around one response.
async fn traced(
    traces: &Traces,
    layer: impl FnOnce(ChunkSpanLayer) -> ChunkSpanLayer,
    body: MockBody,
) -> ResponseBody<ResponseBody<MockBody, ChunkSpanLayer>, RequestSpanLayer> {
    let layer = layer(ChunkSpanLayer::new(traces.tracer()));
    let service = RequestSpanLayer::new().layer(layer.layer(respond(Response::new(body))));
    get(service).await.into_body()
}
