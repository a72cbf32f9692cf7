//! The bound on the memory of all encoders.

use super::*;

#[tokio::test]
async fn over_the_bound_a_response_is_identity_and_counted() {
    for coding in codings() {
        let one = Settings::on().codings([(coding, 3)]);
        let layer = CompressLayer::new()
            .settings(one)
            .max_memory(10 * coding.memory(3));
        let switch = layer.switch();
        let mut open = Vec::new();
        for n in 0..10_000 {
            let response = asked(
                &layer,
                request("*"),
                events([mock::data("a"), mock::hang()]),
            )
            .await;
            let is_encoded = response.headers().contains_key("content-encoding");
            assert_eq!(is_encoded, n < 10, "{n}");
            open.push(response);
        }
        let stats = switch.stats();
        assert_eq!((stats.streams, stats.over_memory), (10, 9_990));
        assert_eq!(stats.memory, 10 * coding.memory(3));
        // One that ends makes room for another.
        open.truncate(9);
        assert_eq!(switch.stats().streams, 9);
        let response = asked(&layer, request("*"), events([mock::data("a")])).await;
        assert!(response.headers().contains_key("content-encoding"));
        response.into_body().collect().await.unwrap();
        drop(open);
        let stats = switch.stats();
        assert_eq!((stats.streams, stats.memory, stats.plain_bytes), (0, 0, 1));
        assert!(stats.encoded_bytes > 0);
        let count = stats.compressed.iter().find(|(known, _)| *known == coding);
        assert_eq!(count, Some(&(coding, 11)));
    }
}

#[cfg(feature = "zstd")]
#[test]
fn zstd_takes_no_more_than_it_reserves() {
    for level in 1..=9 {
        let mut encoder = crate::encoder::zstd::Zstd::new(level).unwrap();
        let text = "data: some words and more of them\n\n".repeat(20_000);
        let mut out = Vec::new();
        encoder
            .encode(text.as_bytes(), crate::encoder::Then::Flush, &mut out)
            .unwrap();
        let (taken, reserved) = (encoder.memory(), Coding::Zstd.memory(level));
        assert!(taken <= reserved, "level {level}: {taken} of {reserved}");
    }
}
