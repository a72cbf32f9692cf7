//! All of our layers at once in random orders, with layers of tower-http in between.

use std::time::Duration;

use e2e::{End, Protocol, Request};
use fastrand::Rng;

use crate::{
    endings::{Ending, Kind},
    layers::{Piece, Served, Stack, Telemetry},
    run::{self, every_ending},
};

/// `ORDER_SEED` chooses other orders.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let first = std::env::var("ORDER_SEED").map_or(0, |seed| seed.parse().expect("a number"));
    first..first + count
}

/// All of ours in any order, every other time with some of tower-http's in between.
fn any_stack(seed: u64) -> Stack {
    let mut random = Rng::with_seed(seed);
    let mut pieces = Piece::OURS.to_vec();
    if seed % 2 == 1 {
        pieces.extend(Piece::FOREIGN.into_iter().filter(|_| random.bool()));
    }
    random.shuffle(&mut pieces);
    Piece::make_workable(&mut pieces);
    let mut stack = Stack::new(pieces);
    // Some orders run without the probe next to the handler, so that the layers themselves must notice the end.
    stack.probed_inside = seed % 4 != 2;
    stack.our_gzip = seed % 4 == 3;
    stack.seed = Some(seed);
    stack
}

async fn any_order(protocol: Protocol) {
    let telemetry = Telemetry::new();
    every_ending(Stack::new(Piece::OURS), protocol, &telemetry).await;
    for seed in seeds(24) {
        every_ending(any_stack(seed), protocol, &telemetry).await;
    }
}

#[tokio::test]
async fn any_order_over_http1() {
    any_order(Protocol::Http11).await;
}

#[tokio::test]
async fn any_order_over_http2() {
    any_order(Protocol::Http2).await;
}

/// Wherever a timeout of tower-http cuts, as long as one of ours is outside of it, all say that it was a timeout.
#[tokio::test]
async fn a_timeout_at_any_place() {
    let telemetry = Telemetry::new();
    for seed in seeds(8) {
        let mut stack = any_stack(seed);
        stack.pieces.retain(|piece| *piece != Piece::Timeout);
        let place = Rng::with_seed(seed).usize(..=stack.pieces.len());
        stack.pieces.insert(place, Piece::Timeout);
        stack.timeout = Duration::from_millis(20);
        hang(stack, "error timeout", &telemetry).await;
    }
}

/// A foreign layer outside of all of ours gives its own error and drops the body inside, as it would when the client left.
/// None of ours can tell the two apart, so all of them report the same: dropped.
#[tokio::test]
async fn a_cut_outside_of_all_is_an_abort() {
    let telemetry = Telemetry::new();
    for seed in seeds(2) {
        let mut stack = any_stack(2 * seed);
        stack.cut_outside = Some(Duration::from_millis(20));
        hang(stack, "aborted dropped", &telemetry).await;
    }
}

/// An HTTP/1.1 server stops at the declared length. The layers inside of the layer that declared it then see a body
/// that is dropped before its end. They still report the end that the layers outside know: the response is complete.
#[tokio::test]
async fn a_length_that_only_the_layers_outside_know() {
    let telemetry = Telemetry::new();
    for seed in seeds(8) {
        let mut stack = any_stack(2 * seed);
        stack.pieces.insert(
            Rng::with_seed(seed).usize(..=stack.pieces.len()),
            Piece::SetLength,
        );
        let served = Served::start(stack, &telemetry).await;
        let mut tally = run::Tally::new(&served, Protocol::Http11, &telemetry);
        let path = Ending::Hang.path(Kind::Text);
        let seen = Protocol::Http11
            .send(served.server.addr(), &Request::get(&path))
            .await;
        let seen = seen.expect("a head");
        assert_eq!(
            (seen.text().as_str(), &seen.end),
            (Kind::Text.beginning(), &End::Length),
            "{:?}",
            served.stack
        );
        tally.told("complete", &[path]).await;
        tally.check_sums();
    }
}

async fn hang(stack: Stack, told: &str, telemetry: &Telemetry) {
    let served = Served::start(stack, telemetry).await;
    for protocol in run::PROTOCOLS {
        let mut tally = run::Tally::new(&served, protocol, telemetry);
        for kind in Kind::ALL {
            tally.exchange(Ending::Hang, kind, told).await;
        }
        tally.check_sums();
    }
}
