//! However the bytes are cut, the scanner finds the boundaries of the whole, forwards and backwards.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tower_stream_core::{RecordFormat, boundary::Scanner};

fuzz_target!(|input: (Vec<u8>, Vec<u8>, bool)| {
    let (mut bytes, cuts, marked) = input;
    if marked {
        bytes.splice(0..0, "\u{feff}".bytes());
    }
    for format in [RecordFormat::Sse, RecordFormat::Lines] {
        let mut whole = Scanner::new(format);
        let all: Vec<usize> = whole.boundaries(&bytes).collect();

        let (mut forward, mut backward) = (Scanner::new(format), Scanner::new(format));
        let mut found = Vec::new();
        let (mut start, mut cut_at) = (0, Vec::new());
        for cut in &cuts {
            let end = (start + usize::from(*cut)).min(bytes.len());
            cut_at.push(end);
            step(&mut forward, &mut backward, &bytes[start..end], start, &mut found);
            start = end;
        }
        step(&mut forward, &mut backward, &bytes[start..], start, &mut found);

        // If a chunk ends inside of a CRLF, the boundary is before the LF.
        let expected: Vec<usize> = all
            .into_iter()
            .map(|at| {
                let crlf = format == RecordFormat::Sse && at >= 2 && &bytes[at - 2..at] == b"\r\n";
                if crlf && cut_at.contains(&(at - 1)) { at - 1 } else { at }
            })
            .collect();
        assert_eq!(found, expected);
        assert_eq!(whole.at_boundary(), forward.at_boundary());
    }
});

fn step(
    forward: &mut Scanner,
    backward: &mut Scanner,
    piece: &[u8],
    start: usize,
    found: &mut Vec<usize>,
) {
    let here: Vec<usize> = forward.boundaries(piece).collect();
    let last = backward.last_boundary(piece);
    assert_eq!(forward.at_boundary(), backward.at_boundary());
    assert!(here.last() <= last.as_ref());
    found.extend(here.iter().map(|at| start + at));
}
