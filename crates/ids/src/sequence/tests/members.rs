//! Ids of JSON records.

use super::*;

#[tokio::test]
async fn objects_get_a_member_and_nothing_else_changes() {
    let layer = SequenceLayer::new().json_lines(true);
    let input = [
        "{\"a\":{\"b\":1}}\n{}\n",
        " { } \n[{}]\n1\n\"{\"\n\n{\r\n",
        "{ \"a\":1}\n{oops}\n{",
        "",
        "\"c\":2}\n{\"d\":3}",
    ];
    assert_eq!(
        text(layer, "application/x-ndjson", &input).await,
        "{\"sequence_id\":1,\"a\":{\"b\":1}}\n{\"sequence_id\":2}\n \
         { \"sequence_id\":3} \n[{}]\n1\n\"{\"\n\n{\r\n\
         { \"sequence_id\":4,\"a\":1}\n{oops}\n{\
         \"sequence_id\":6,\"c\":2}\n{\"sequence_id\":7,\"d\":3}"
    );
}

#[tokio::test]
async fn texts_of_a_json_sequence_may_have_many_lines() {
    let layer = SequenceLayer::new().json_lines(true);
    let input = [
        "\x1e{\n \"a\":\n{\"b\":1}\n}\n\x1e\x1e[\n{}\n]\n\x1e{",
        "}\n",
    ];
    assert_eq!(
        text(layer, "application/json-seq", &input).await,
        "\x1e{\n \"sequence_id\":1,\"a\":\n{\"b\":1}\n}\n\x1e\x1e[\n{}\n]\n\x1e{\"sequence_id\":2}\n"
    );
}

proptest! {
    #[test]
    fn json_stamps_do_not_depend_on_the_cuts(
        input in "([{}\"a,: \n\x1e\\[]|\\{\"a\":1\\}\n){0,24}",
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..6),
    ) {
        for (lines, make) in [(true, JsonStamper::lines as fn() -> _), (false, JsonStamper::text_sequence)] {
            let stamped = |cuts: &[usize]| {
                let (mut stamper, mut n, mut out, mut from) = (make(), 0, Vec::new(), 0);
                for cut in cuts {
                    let piece = Bytes::copy_from_slice(&input.as_bytes()[from..*cut]);
                    out.extend_from_slice(&stamper.stamp(piece, || { n += 1; n }));
                    from = *cut;
                }
                String::from_utf8(out).unwrap()
            };
            let whole = stamped(&[input.len()]);
            let mut cuts: Vec<usize> = cuts.iter().map(|at| at.index(input.len() + 1)).collect();
            cuts.sort_unstable();
            cuts.push(input.len());
            prop_assert_eq!(stamped(&cuts), &*whole);
            // A valid JSON line stays valid, and only the new member is added.
            if !lines { continue }
            for (before, after) in input.lines().zip(whole.lines()) {
                let (Ok(before), Ok(mut after)) = (
                    serde_json::from_str::<serde_json::Value>(before),
                    serde_json::from_str::<serde_json::Value>(after),
                ) else {
                    prop_assert!(serde_json::from_str::<serde_json::Value>(before).is_err());
                    continue;
                };
                if let Some(object) = after.as_object_mut() {
                    prop_assert!(object.remove("sequence_id").is_some());
                }
                prop_assert_eq!(before, after);
            }
        }
    }
}
