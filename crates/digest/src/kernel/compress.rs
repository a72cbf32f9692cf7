//! The MD5 compression function (RFC 1321 section 3.4), over `N` independent streams at once.
//!
//! A step computes `a = b + rotl(a + f(b, c, d) + m + k, s)`, and the next step needs its result. Only the summands
//! that read `b` depend on the step before; the others can be added earlier. The optimizer may reassociate the sum,
//! which places early summands behind late ones, so `black_box` pins the early part. The critical path is then `& ^ +
//! rotl +` in round one, `& + rotl +` in two, `^ + rotl +` in three and `| ^ + rotl +` in four: 288 cycles per block,
//! 4.5 per byte, on a core that needs one cycle for each of these operations.
//!
//! This chain leaves most of a wide core idle, so a second stream fits into the gaps: `N = 2` takes little longer than
//! `N = 1`.

use std::array::from_fn;
use std::hint::black_box;

/// The registers A, B, C and D of one stream.
pub(super) type State = [u32; 4];

/// The initial state (RFC 1321 section 3.3).
pub(super) const INIT: State = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];

pub(super) const BLOCK: usize = 64;

/// One register of each stream.
type Lanes<const N: usize> = [u32; N];

/// One step of the algorithm for each stream. `b` is the result of the step before. `early` must not read it, so that
/// it can be computed while the step before is still running; `late` may. Both are called once per stream.
#[inline(always)]
fn step<const N: usize>(
    b: Lanes<N>,
    shift: u32,
    early: impl Fn(usize) -> u32,
    late: impl Fn(usize) -> u32,
) -> Lanes<N> {
    let early: Lanes<N> = from_fn(|n| black_box(early(n)));
    from_fn(|n| add([add([late(n), early[n]]).rotate_left(shift), b[n]]))
}

#[inline(always)]
fn add<const M: usize>(summands: [u32; M]) -> u32 {
    summands.into_iter().fold(0, u32::wrapping_add)
}

#[inline(always)]
fn f<const N: usize>([a, b, c, d]: [Lanes<N>; 4], m: Lanes<N>, shift: u32, k: u32) -> Lanes<N> {
    let early = |n: usize| add([a[n], m[n], k]);
    step(b, shift, early, |n| (b[n] & (c[n] ^ d[n])) ^ d[n])
}

/// RFC 1321 writes `(b & d) | (c & !d)`. The two halves share no bit, so `+` can replace `|`, and the half without `b`
/// is early.
#[inline(always)]
fn g<const N: usize>([a, b, c, d]: [Lanes<N>; 4], m: Lanes<N>, shift: u32, k: u32) -> Lanes<N> {
    let early = |n: usize| add([a[n], m[n], k, c[n] & !d[n]]);
    step(b, shift, early, |n| b[n] & d[n])
}

#[inline(always)]
fn h<const N: usize>([a, b, c, d]: [Lanes<N>; 4], m: Lanes<N>, shift: u32, k: u32) -> Lanes<N> {
    let early = |n: usize| add([a[n], m[n], k]);
    step(b, shift, early, |n| b[n] ^ (c[n] ^ d[n]))
}

#[inline(always)]
fn i<const N: usize>([a, b, c, d]: [Lanes<N>; 4], m: Lanes<N>, shift: u32, k: u32) -> Lanes<N> {
    let early = |n: usize| add([a[n], m[n], k]);
    step(b, shift, early, |n| c[n] ^ (b[n] | !d[n]))
}

/// Feeds one block to each state.
#[inline(always)]
#[rustfmt::skip]
pub(super) fn compress<const N: usize>(states: [&mut State; N], blocks: [&[u8; BLOCK]; N]) {
    let m = |i: usize| -> Lanes<N> {
        from_fn(|n| {
            let b = blocks[n];
            u32::from_le_bytes([b[4 * i], b[4 * i + 1], b[4 * i + 2], b[4 * i + 3]])
        })
    };
    let lanes = |i: usize| -> Lanes<N> { from_fn(|n| states[n][i]) };
    let [mut a, mut b, mut c, mut d] = [lanes(0), lanes(1), lanes(2), lanes(3)];

    a = f([a, b, c, d], m(0), 7, 0xd76a_a478);
    d = f([d, a, b, c], m(1), 12, 0xe8c7_b756);
    c = f([c, d, a, b], m(2), 17, 0x2420_70db);
    b = f([b, c, d, a], m(3), 22, 0xc1bd_ceee);
    a = f([a, b, c, d], m(4), 7, 0xf57c_0faf);
    d = f([d, a, b, c], m(5), 12, 0x4787_c62a);
    c = f([c, d, a, b], m(6), 17, 0xa830_4613);
    b = f([b, c, d, a], m(7), 22, 0xfd46_9501);
    a = f([a, b, c, d], m(8), 7, 0x6980_98d8);
    d = f([d, a, b, c], m(9), 12, 0x8b44_f7af);
    c = f([c, d, a, b], m(10), 17, 0xffff_5bb1);
    b = f([b, c, d, a], m(11), 22, 0x895c_d7be);
    a = f([a, b, c, d], m(12), 7, 0x6b90_1122);
    d = f([d, a, b, c], m(13), 12, 0xfd98_7193);
    c = f([c, d, a, b], m(14), 17, 0xa679_438e);
    b = f([b, c, d, a], m(15), 22, 0x49b4_0821);

    a = g([a, b, c, d], m(1), 5, 0xf61e_2562);
    d = g([d, a, b, c], m(6), 9, 0xc040_b340);
    c = g([c, d, a, b], m(11), 14, 0x265e_5a51);
    b = g([b, c, d, a], m(0), 20, 0xe9b6_c7aa);
    a = g([a, b, c, d], m(5), 5, 0xd62f_105d);
    d = g([d, a, b, c], m(10), 9, 0x0244_1453);
    c = g([c, d, a, b], m(15), 14, 0xd8a1_e681);
    b = g([b, c, d, a], m(4), 20, 0xe7d3_fbc8);
    a = g([a, b, c, d], m(9), 5, 0x21e1_cde6);
    d = g([d, a, b, c], m(14), 9, 0xc337_07d6);
    c = g([c, d, a, b], m(3), 14, 0xf4d5_0d87);
    b = g([b, c, d, a], m(8), 20, 0x455a_14ed);
    a = g([a, b, c, d], m(13), 5, 0xa9e3_e905);
    d = g([d, a, b, c], m(2), 9, 0xfcef_a3f8);
    c = g([c, d, a, b], m(7), 14, 0x676f_02d9);
    b = g([b, c, d, a], m(12), 20, 0x8d2a_4c8a);

    a = h([a, b, c, d], m(5), 4, 0xfffa_3942);
    d = h([d, a, b, c], m(8), 11, 0x8771_f681);
    c = h([c, d, a, b], m(11), 16, 0x6d9d_6122);
    b = h([b, c, d, a], m(14), 23, 0xfde5_380c);
    a = h([a, b, c, d], m(1), 4, 0xa4be_ea44);
    d = h([d, a, b, c], m(4), 11, 0x4bde_cfa9);
    c = h([c, d, a, b], m(7), 16, 0xf6bb_4b60);
    b = h([b, c, d, a], m(10), 23, 0xbebf_bc70);
    a = h([a, b, c, d], m(13), 4, 0x289b_7ec6);
    d = h([d, a, b, c], m(0), 11, 0xeaa1_27fa);
    c = h([c, d, a, b], m(3), 16, 0xd4ef_3085);
    b = h([b, c, d, a], m(6), 23, 0x0488_1d05);
    a = h([a, b, c, d], m(9), 4, 0xd9d4_d039);
    d = h([d, a, b, c], m(12), 11, 0xe6db_99e5);
    c = h([c, d, a, b], m(15), 16, 0x1fa2_7cf8);
    b = h([b, c, d, a], m(2), 23, 0xc4ac_5665);

    a = i([a, b, c, d], m(0), 6, 0xf429_2244);
    d = i([d, a, b, c], m(7), 10, 0x432a_ff97);
    c = i([c, d, a, b], m(14), 15, 0xab94_23a7);
    b = i([b, c, d, a], m(5), 21, 0xfc93_a039);
    a = i([a, b, c, d], m(12), 6, 0x655b_59c3);
    d = i([d, a, b, c], m(3), 10, 0x8f0c_cc92);
    c = i([c, d, a, b], m(10), 15, 0xffef_f47d);
    b = i([b, c, d, a], m(1), 21, 0x8584_5dd1);
    a = i([a, b, c, d], m(8), 6, 0x6fa8_7e4f);
    d = i([d, a, b, c], m(15), 10, 0xfe2c_e6e0);
    c = i([c, d, a, b], m(6), 15, 0xa301_4314);
    b = i([b, c, d, a], m(13), 21, 0x4e08_11a1);
    a = i([a, b, c, d], m(4), 6, 0xf753_7e82);
    d = i([d, a, b, c], m(11), 10, 0xbd3a_f235);
    c = i([c, d, a, b], m(2), 15, 0x2ad7_d2bb);
    b = i([b, c, d, a], m(9), 21, 0xeb86_d391);

    for (n, state) in states.into_iter().enumerate() {
        for (word, sum) in state.iter_mut().zip([a[n], b[n], c[n], d[n]]) {
            *word = word.wrapping_add(sum);
        }
    }
}
