//! Layers outside of resumption follow a reader, and those inside the producer. Both tell the same of a stream whose reader stays to its end.

use e2e::{Protocol, Request};
use fastrand::Rng;

use crate::{
    endings::{Ending, Kind},
    layers::{Piece, Served, Stack, Telemetry},
    run::{PROTOCOLS, Place, Tally},
};

/// Those whose stream ends while its reader is there.
const ENDINGS: [Ending; 10] = [
    Ending::Chunked,
    Ending::Length,
    Ending::Sized,
    Ending::TellsEnd,
    Ending::Empty,
    Ending::Error,
    Ending::ErrorFirst,
    Ending::PanicBody,
    Ending::PanicHandler,
    Ending::Short,
];

const READERS: [Piece; 9] = [
    Piece::RequestId,
    Piece::RequestSpan,
    Piece::Metrics,
    Piece::Drain,
    Piece::Headers,
    Piece::Digest,
    Piece::Heartbeat,
    Piece::Errors,
    Piece::Farewell,
];

const PRODUCERS: [Piece; 3] = [Piece::ChunkSpan, Piece::Sequence, Piece::Verify];

async fn every_ending(stack: Stack, protocol: Protocol, telemetry: &Telemetry) {
    let served = Served::start(stack, telemetry).await;
    let mut tally = Tally::new(&served, protocol, telemetry);
    for kind in Kind::ALL {
        for ending in ENDINGS {
            let _place = Place::new(&served.stack, protocol, (ending, kind));
            let request = Request::get(&ending.path(kind));
            let seen = protocol.send(served.server.addr(), &request).await;
            if let (Kind::Sse, Ok(seen), true) = (kind, &seen, ending != Ending::PanicHandler) {
                let text = seen.text();
                let records: String = text
                    .split_inclusive('\n')
                    .filter(|line| !line.starts_with("id: "))
                    .collect();
                let expected = match ending {
                    Ending::Empty | Ending::ErrorFirst => "",
                    Ending::Error | Ending::PanicBody | Ending::Short => kind.beginning(),
                    _ => "data: 1\n\ndata: 2\n\n",
                };
                // Between them are the blank lines of blocks that only have a cursor.
                let records = records.trim_start_matches('\n');
                // What was not flushed is lost when the body is aborted.
                let begins = match seen.end.is_whole() {
                    true => records.starts_with(expected),
                    false => expected.starts_with(records),
                };
                assert!(begins, "{text:?}");
                let fails = !ending.is_fine();
                let says = records.contains("event: error\n");
                assert!(!says || fails, "{text:?}");
                assert_eq!(
                    seen.end.is_whole(),
                    !fails || says,
                    "{text:?}: {}",
                    seen.end
                );
            }
            let told = ending.told(kind, &served.stack);
            tally.told(told, &[ending.path(kind)]).await;
        }
    }
    tally.check_sums();
}

#[tokio::test]
async fn both_sides_tell_the_same() {
    let telemetry = Telemetry::new();
    for protocol in PROTOCOLS {
        for seed in 0..6 {
            let mut random = Rng::with_seed(seed);
            let (mut readers, mut producers) = (READERS.to_vec(), PRODUCERS.to_vec());
            if seed > 0 {
                random.shuffle(&mut readers);
                random.shuffle(&mut producers);
            }
            let pieces = [readers, vec![Piece::Resume], producers].concat();
            let mut stack = Stack::new(pieces);
            stack.seed = Some(seed);
            every_ending(stack, protocol, &telemetry).await;
        }
        for outside in READERS {
            every_ending(Stack::new([outside, Piece::Resume]), protocol, &telemetry).await;
        }
        for inside in PRODUCERS {
            every_ending(Stack::new([Piece::Resume, inside]), protocol, &telemetry).await;
        }
    }
}
