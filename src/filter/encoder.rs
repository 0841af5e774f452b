//! A response's body in a content coding, piece by piece.
//!
//! Answers "what goes out for what came in?". Everything that came in goes out at once, so that a
//! stream of events is as prompt as without us; a body that comes in large pieces loses nothing by
//! it.
//!
//! # Memory
//! One encoder holds a window of at most 256 KiB and tables in proportion: about 0.3 MiB for gzip,
//! 1 MiB for zstd and 2 MiB for br, whatever the length of the body.

use std::fmt;
use std::io::{self, Write};

use brotli::CompressorWriter;
use bytes::Bytes;
use flate2::write::GzEncoder;
use zstd::stream::write::Encoder as ZstdEncoder;

use crate::config::filter::Coding;

/// Levels at which the three take about as much time: what a gateway can spend on a text that it
/// sends once.
const GZIP_LEVEL: u32 = 5;
const BROTLI_QUALITY: u32 = 4;
const ZSTD_LEVEL: i32 = 3;
/// Binary logarithm of the window of br and zstd. gzip's is 32 KiB by its format.
const WINDOW_LOG: u32 = 18;
/// What the brotli encoder collects before it works.
const BROTLI_BUFFER: usize = 16 * 1024;

/// One body on its way.
pub struct Encoder(State);

enum State {
    Zstd(Box<ZstdEncoder<'static, Vec<u8>>>),
    Brotli(Box<CompressorWriter<Vec<u8>>>),
    Gzip(Box<GzEncoder<Vec<u8>>>),
    Ended,
}

impl Encoder {
    /// An encoder at the beginning of a body.
    ///
    /// # Errors
    /// When there is no memory for one.
    pub fn new(coding: Coding) -> io::Result<Self> {
        Ok(Self(match coding {
            Coding::Zstd => {
                let mut encoder = ZstdEncoder::new(Vec::new(), ZSTD_LEVEL)?;
                encoder.window_log(WINDOW_LOG)?;
                State::Zstd(Box::new(encoder))
            }
            Coding::Brotli => State::Brotli(Box::new(CompressorWriter::new(
                Vec::new(),
                BROTLI_BUFFER,
                BROTLI_QUALITY,
                WINDOW_LOG,
            ))),
            Coding::Gzip => {
                let level = flate2::Compression::new(GZIP_LEVEL);
                State::Gzip(Box::new(GzEncoder::new(Vec::new(), level)))
            }
        }))
    }

    /// What goes out for `data`: all of it, and with `is_end` the end of the coding. After the end
    /// nothing goes out any more. Without data and end nothing does either.
    ///
    /// # Errors
    /// When the coding's library refuses, which it has no reason to.
    pub fn encode(&mut self, data: &[u8], is_end: bool) -> io::Result<Bytes> {
        if is_end {
            return self.finish(data);
        }
        if data.is_empty() {
            return Ok(Bytes::new());
        }
        let out = match &mut self.0 {
            State::Zstd(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            State::Brotli(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            State::Gzip(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                encoder.get_mut()
            }
            State::Ended => return Ok(Bytes::new()),
        };
        Ok(std::mem::take(out).into())
    }

    fn finish(&mut self, data: &[u8]) -> io::Result<Bytes> {
        let out = match std::mem::replace(&mut self.0, State::Ended) {
            State::Zstd(mut encoder) => {
                encoder.write_all(data)?;
                encoder.finish()?
            }
            State::Brotli(mut encoder) => {
                encoder.write_all(data)?;
                encoder.into_inner()
            }
            State::Gzip(mut encoder) => {
                encoder.write_all(data)?;
                encoder.finish()?
            }
            State::Ended => Vec::new(),
        };
        Ok(out.into())
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            State::Zstd(_) => "Encoder(zstd)",
            State::Brotli(_) => "Encoder(br)",
            State::Gzip(_) => "Encoder(gzip)",
            State::Ended => "Encoder(ended)",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// What a client reads of `bytes`, which need not be complete.
    fn decode(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut reader: Box<dyn Read + '_> = match coding {
            Coding::Zstd => Box::new(zstd::stream::read::Decoder::new(bytes).unwrap()),
            Coding::Brotli => Box::new(brotli::Decompressor::new(bytes, 4096)),
            Coding::Gzip => Box::new(flate2::read::GzDecoder::new(bytes)),
        };
        let mut buffer = [0; 4096];
        while let Ok(read @ 1..) = reader.read(&mut buffer) {
            out.extend_from_slice(&buffer[..read]);
        }
        out
    }

    fn whole(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        match coding {
            Coding::Zstd => out = zstd::stream::decode_all(bytes).unwrap(),
            Coding::Brotli => {
                brotli::Decompressor::new(bytes, 4096).read_to_end(&mut out).unwrap();
            }
            Coding::Gzip => {
                flate2::read::GzDecoder::new(bytes).read_to_end(&mut out).unwrap();
            }
        }
        out
    }

    const ALL: [Coding; 3] = [Coding::Zstd, Coding::Brotli, Coding::Gzip];

    #[test]
    fn every_piece_can_be_read_at_once() {
        for coding in ALL {
            let mut encoder = Encoder::new(coding).unwrap();
            let (mut sent, mut expected) = (Vec::new(), Vec::new());
            for number in 0..50 {
                let piece = format!("data: event {number}\n\n");
                expected.extend_from_slice(piece.as_bytes());
                sent.extend_from_slice(&encoder.encode(piece.as_bytes(), false).unwrap());
                assert_eq!(decode(coding, &sent), expected, "{coding:?} {number}");
            }
            sent.extend_from_slice(&encoder.encode(b"", true).unwrap());
            assert_eq!(whole(coding, &sent), expected, "{coding:?}");
        }
    }

    #[test]
    fn any_body_comes_out_as_it_went_in() {
        let mut rng = fastrand::Rng::with_seed(3);
        for coding in ALL {
            for size in [0, 1, 100, 70_000, 3_000_000] {
                let body: Vec<u8> = (0..size).map(|_| rng.u8(b'a'..b'i')).collect();
                let mut encoder = Encoder::new(coding).unwrap();
                let mut sent = Vec::new();
                for piece in body.chunks(50_000) {
                    sent.extend_from_slice(&encoder.encode(piece, false).unwrap());
                }
                sent.extend_from_slice(&encoder.encode(b"", true).unwrap());
                assert!(whole(coding, &sent) == body, "{coding:?} {size}");
                assert!(size < 1000 || sent.len() < size / 2, "{coding:?}: {} bytes", sent.len());
                assert!(encoder.encode(b"more", true).unwrap().is_empty(), "after the end");
            }
        }
    }
}
