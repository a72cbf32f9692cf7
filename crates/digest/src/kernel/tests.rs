use super::{Kernel, update_two};
use digest::{Digest, common::hazmat::SerializableState};
use proptest::prelude::*;

/// RFC 1321 appendix A.5.
const SUITE: [(&str, &str); 7] = [
    ("", "d41d8cd98f00b204e9800998ecf8427e"),
    ("a", "0cc175b9c0f1b6a831c399e269772661"),
    ("abc", "900150983cd24fb0d6963f7d28e17f72"),
    ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
    (
        "abcdefghijklmnopqrstuvwxyz",
        "c3fcd3d76192e4007dfb496cca67e13b",
    ),
    (
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
        "d174ab98d277d9f5a5611c2c9f419d9f",
    ),
    (
        "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
        "57edf4a22be3c955ac49da2e2107b67a",
    ),
];

fn noise(len: usize) -> Vec<u8> {
    let mut x = 0x9e37_79b9_u32;
    std::iter::repeat_with(|| {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x.to_le_bytes()[0]
    })
    .take(len)
    .collect()
}

#[test]
fn rfc_1321_test_suite() {
    for (input, expected) in SUITE {
        assert_eq!(hex::encode(Kernel::digest(input)), expected, "{input:?}");
    }
}

#[test]
fn every_length_around_the_padding() {
    let data = noise(200);
    for len in 0..=data.len() {
        assert_eq!(
            Kernel::digest(&data[..len]),
            md5::Md5::digest(&data[..len]),
            "{len} bytes"
        );
    }
}

#[test]
fn every_split_of_200_bytes() {
    let data = noise(200);
    let expected = md5::Md5::digest(&data);
    for at in 0..=data.len() {
        let sum = Kernel::new()
            .chain_update(&data[..at])
            .chain_update([])
            .chain_update(&data[at..])
            .finalize();
        assert_eq!(sum, expected, "split at {at}");
    }
}

/// RFC 1321 section 3.2 counts bits in 64 bits. Hashing up to that point would take centuries, so both hashers start
/// there: md-5 by its serialized state (four words, the number of blocks, the unfinished block).
#[test]
fn counts_past_4_gib_and_wraps_at_2_to_the_64_bits() {
    for len in [
        1u64 << 29,
        1 << 32,
        (1 << 32) + 64,
        1 << 40,
        (1 << 61) - 64,
        1 << 61,
        (1 << 61) + (1 << 20),
    ] {
        let mut serialized = md5::Md5::new().serialize();
        serialized[16..24].copy_from_slice(&(len / 64).to_le_bytes());
        let theirs = md5::Md5::deserialize(&serialized).expect("the layout of md-5 0.11");
        let ours = Kernel {
            len,
            ..Kernel::default()
        };
        for tail in [0, 1, 55, 56, 63, 64, 65, 1000] {
            let tail = noise(tail);
            assert_eq!(
                ours.clone().chain_update(&tail).finalize(),
                theirs.clone().chain_update(&tail).finalize(),
                "{len} + {} bytes",
                tail.len()
            );
        }
    }
}

#[test]
fn two_streams_at_every_pair_of_offsets() {
    let data = noise(400);
    for a in 0..=64 {
        for b in 0..=64 {
            let mut x = Kernel::new_with_prefix(&data[..a]);
            let mut y = Kernel::new_with_prefix(&data[..b]);
            update_two((&mut x, &data[a..]), (&mut y, &data[b..300]));
            assert_eq!(x.finalize(), md5::Md5::digest(&data), "{a} {b}");
            assert_eq!(y.finalize(), md5::Md5::digest(&data[..300]), "{a} {b}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn agrees_with_md5_however_it_is_cut(
        data in prop::collection::vec(any::<u8>(), 0..1500),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(data.len() + 1)).collect();
        at.extend([0, data.len()]);
        at.sort_unstable();

        let mut ours = Kernel::new();
        for cut in at.windows(2) {
            ours.update(&data[cut[0]..cut[1]]);
        }
        prop_assert_eq!(ours.finalize(), md5::Md5::digest(&data));
    }

    #[test]
    fn two_streams_agree_with_one_each(
        data in prop::collection::vec(any::<u8>(), 0..1500),
        starts in any::<[prop::sample::Index; 2]>(),
        ends in any::<[prop::sample::Index; 2]>(),
    ) {
        let [a, b] = starts.map(|at| at.index(data.len() + 1));
        let mut first = Kernel::new_with_prefix(&data[..a]);
        let mut second = Kernel::new_with_prefix(&data[..b]);
        let (a_end, b_end) = (a + ends[0].index(data.len() - a + 1), b + ends[1].index(data.len() - b + 1));
        update_two((&mut first, &data[a..a_end]), (&mut second, &data[b..b_end]));
        prop_assert_eq!(first.finalize(), md5::Md5::digest(&data[..a_end]));
        prop_assert_eq!(second.finalize(), md5::Md5::digest(&data[..b_end]));
    }
}
