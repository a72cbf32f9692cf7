//! What a client can read of the bytes so far.

use crate::Coding;

pub(super) enum Decoder {
    #[cfg(feature = "gzip")]
    Gzip(flate2::Decompress, bool),
    #[cfg(feature = "br")]
    Br(Box<brotli::DecompressorWriter<Vec<u8>>>),
    #[cfg(feature = "zstd")]
    Zstd(zstd_safe::DCtx<'static>, bool),
}

impl Decoder {
    pub(super) fn new(coding: Coding) -> Self {
        match coding {
            #[cfg(feature = "gzip")]
            Coding::Gzip => Self::Gzip(flate2::Decompress::new_gzip(15), false),
            #[cfg(feature = "br")]
            Coding::Br => Self::Br(Box::new(brotli::DecompressorWriter::new(Vec::new(), 4096))),
            #[cfg(feature = "zstd")]
            Coding::Zstd => Self::Zstd(zstd_safe::DCtx::create(), false),
            #[allow(unreachable_patterns)]
            _ => panic!("no {coding}"),
        }
    }

    /// What these bytes make readable.
    pub(super) fn read(&mut self, data: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip(decoder, whole) => {
                let mut data = data;
                loop {
                    out.reserve(64 * 1024);
                    let before = decoder.total_in();
                    let flush = flate2::FlushDecompress::Sync;
                    let status = decoder.decompress_vec(data, &mut out, flush).unwrap();
                    data = &data[(decoder.total_in() - before) as usize..];
                    *whole |= status == flate2::Status::StreamEnd;
                    if *whole || data.is_empty() && out.len() < out.capacity() {
                        assert!(data.is_empty());
                        break;
                    }
                }
            }
            #[cfg(feature = "br")]
            Self::Br(decoder) => {
                use std::io::Write;
                decoder.write_all(data).unwrap();
                out = std::mem::take(decoder.get_mut());
            }
            #[cfg(feature = "zstd")]
            Self::Zstd(decoder, whole) => {
                let mut input = zstd_safe::InBuffer::around(data);
                loop {
                    out.reserve(64 * 1024);
                    let at = out.len();
                    let mut output = zstd_safe::OutBuffer::around_pos(&mut out, at);
                    let left = decoder.decompress_stream(&mut output, &mut input).unwrap();
                    *whole = left == 0;
                    if input.pos() == data.len() && out.len() < out.capacity() {
                        break;
                    }
                }
            }
        }
        out
    }

    /// Whether the end of the coding has been read.
    pub(super) fn is_whole(&mut self) -> bool {
        match self {
            #[cfg(feature = "gzip")]
            Self::Gzip(_, whole) => *whole,
            #[cfg(feature = "br")]
            Self::Br(decoder) => decoder.close().is_ok(),
            #[cfg(feature = "zstd")]
            Self::Zstd(_, whole) => *whole,
        }
    }
}
