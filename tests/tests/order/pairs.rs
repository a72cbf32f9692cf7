//! Every two of our layers, in both orders.

use e2e::Protocol;

use crate::{
    layers::{Piece, Stack, Telemetry},
    run::every_ending,
};

async fn every_pair(protocol: Protocol) {
    let telemetry = Telemetry::new();
    for outer in Piece::OURS {
        for inner in Piece::OURS.into_iter().filter(|inner| *inner != outer) {
            let mut stack = Stack::new([outer, inner]);
            for probed_inside in [false, true] {
                stack.probed_inside = probed_inside;
                every_ending(stack.clone(), protocol, &telemetry).await;
            }
        }
    }
}

#[tokio::test]
async fn every_pair_over_http1() {
    every_pair(Protocol::Http11).await;
}

#[tokio::test]
async fn every_pair_over_http2() {
    every_pair(Protocol::Http2).await;
}
