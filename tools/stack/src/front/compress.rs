//! Compression of bodies, both ways.
//!
//! ClickHouse's own framing (`compress=1`, `decompress=1`): blocks of a 16-byte CityHash128 (v1.0.2)
//! checksum, a method byte, the compressed size with these 9 bytes, the raw size, the data. And the
//! standard LZ4 frame of HTTP (`Accept-Encoding: lz4`), which is what the `clickhouse` crate asks for.

use std::io::{self, Read, Write};

use lz4_flex::block;
use lz4_flex::frame::{FrameEncoder, FrameInfo};

use super::error::{Exception, code};

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const LZ4: u8 = 0x82;
const NONE: u8 = 0x02;
/// Raw bytes a block when compressing: ClickHouse's default buffer.
const BLOCK: usize = 1024 * 1024;
/// The largest block taken, raw or compressed. Clients cut at 1 MiB or less; a forged size must not
/// make the front reserve gigabytes.
const MAX_BLOCK: usize = 256 * 1024 * 1024;

/// How a response's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Not at all.
    Plain,
    /// `compress=1`.
    Native,
    /// `Content-Encoding: lz4`.
    Lz4Frame,
}

/// Compresses a body piece by piece; each piece can be sent at once.
pub(crate) enum Encoder {
    Plain,
    Native,
    Lz4Frame(Box<FrameEncoder<Vec<u8>>>),
}

impl Encoder {
    pub(crate) fn new(coding: Coding) -> Self {
        match coding {
            Coding::Plain => Self::Plain,
            Coding::Native => Self::Native,
            Coding::Lz4Frame => {
                Self::Lz4Frame(Box::new(FrameEncoder::with_frame_info(FrameInfo::new(), Vec::new())))
            }
        }
    }

    pub(crate) fn encode(&mut self, data: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain => Ok(data.to_vec()),
            Self::Native => Ok(data.chunks(BLOCK).flat_map(native_block).collect()),
            Self::Lz4Frame(encoder) => {
                encoder.write_all(data)?;
                encoder.flush()?;
                Ok(std::mem::take(encoder.get_mut()))
            }
        }
    }

    /// What ends the body.
    pub(crate) fn finish(self) -> io::Result<Vec<u8>> {
        match self {
            Self::Plain | Self::Native => Ok(Vec::new()),
            Self::Lz4Frame(encoder) => encoder.finish().map_err(io::Error::other),
        }
    }
}

fn checksum(data: &[u8]) -> [u8; CHECKSUM] {
    // The crate returns the two halves the other way round from how ClickHouse writes them.
    cityhash_rs::cityhash_102_128(data).rotate_right(64).to_le_bytes()
}

fn native_block(data: &[u8]) -> Vec<u8> {
    let mut out = vec![0; CHECKSUM + HEADER + block::get_maximum_output_size(data.len())];
    let size = block::compress_into(data, &mut out[CHECKSUM + HEADER..])
        .expect("the buffer has the largest size that LZ4 can need");
    out.truncate(CHECKSUM + HEADER + size);
    let length = |size: usize| u32::try_from(size).expect("a block is at most 1 MiB").to_le_bytes();
    out[CHECKSUM] = LZ4;
    out[CHECKSUM + 1..CHECKSUM + 5].copy_from_slice(&length(HEADER + size));
    out[CHECKSUM + 5..CHECKSUM + HEADER].copy_from_slice(&length(data.len()));
    let sum = checksum(&out[CHECKSUM..]);
    out[..CHECKSUM].copy_from_slice(&sum);
    out
}

/// Reads ClickHouse's framing, one block in memory at a time.
pub(crate) struct NativeReader<R> {
    inner: R,
    block: Vec<u8>,
    at: usize,
}

impl<R: Read> NativeReader<R> {
    pub(crate) fn new(inner: R) -> Self {
        Self { inner, block: Vec::new(), at: 0 }
    }

    /// `false` at the end of the body.
    fn next_block(&mut self) -> io::Result<bool> {
        let mut head = [0; CHECKSUM + HEADER];
        match fill(&mut self.inner, &mut head)? {
            0 => return Ok(false),
            read if read < head.len() => return Err(cut().into()),
            _ => {}
        }
        let size = |at: usize| {
            let bytes = [head[at], head[at + 1], head[at + 2], head[at + 3]];
            usize::try_from(u32::from_le_bytes(bytes)).unwrap_or(usize::MAX)
        };
        let (method, compressed, raw) = (head[CHECKSUM], size(CHECKSUM + 1), size(CHECKSUM + 5));
        if !(HEADER..=MAX_BLOCK).contains(&compressed) || raw > MAX_BLOCK {
            let message = format!("a compressed block of {compressed} bytes ({raw} raw) is over {MAX_BLOCK}");
            return Err(Exception::new(
                code::TOO_LARGE_SIZE_COMPRESSED,
                "TOO_LARGE_SIZE_COMPRESSED",
                message,
            )
            .into());
        }
        let mut data = vec![0; compressed];
        data[..HEADER].copy_from_slice(&head[CHECKSUM..]);
        if fill(&mut self.inner, &mut data[HEADER..])? < compressed - HEADER {
            return Err(cut().into());
        }
        if checksum(&data) != head[..CHECKSUM] {
            let message = "Checksum doesn't match: corrupted data in the request's body";
            return Err(Exception::new(code::CHECKSUM_DOESNT_MATCH, "CHECKSUM_DOESNT_MATCH", message).into());
        }
        self.at = 0;
        self.block = match method {
            LZ4 => block::decompress(&data[HEADER..], raw).map_err(|error| {
                Exception::new(code::CANNOT_DECOMPRESS, "CANNOT_DECOMPRESS", format!("LZ4: {error}"))
            })?,
            NONE => data.split_off(HEADER),
            other => {
                let message =
                    format!("compression method {other:#04x}: this server takes LZ4 (0x82) and none (0x02)");
                let name = "UNKNOWN_COMPRESSION_METHOD";
                return Err(Exception::new(code::UNKNOWN_COMPRESSION_METHOD, name, message).into());
            }
        };
        Ok(true)
    }
}

impl<R: Read> Read for NativeReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.block.len() {
            if !self.next_block()? {
                return Ok(0);
            }
        }
        let count = buffer.len().min(self.block.len() - self.at);
        buffer[..count].copy_from_slice(&self.block[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}

fn cut() -> Exception {
    let message = "Cannot read all data: the body ends within a compressed block";
    Exception::new(code::CANNOT_READ_ALL_DATA, "CANNOT_READ_ALL_DATA", message)
}

/// Reads until `buffer` is full or the end; the count of bytes read.
pub(crate) fn fill(reader: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match reader.read(&mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn native(data: &[u8]) -> Vec<u8> {
        Encoder::new(Coding::Native).encode(data).expect("compresses")
    }

    #[test]
    fn native_framing_comes_back() {
        let data: Vec<u8> = (0..3_000_000_u32).map(|n| u8::try_from(n % 251).expect("below 251")).collect();
        let mut back = Vec::new();
        NativeReader::new(&native(&data)[..]).read_to_end(&mut back).expect("reads");
        assert_eq!(back, data);
    }

    #[test]
    fn bad_blocks_are_told_apart() {
        let code = |bytes: &[u8]| {
            let error = NativeReader::new(bytes).read_to_end(&mut Vec::new()).expect_err("must fail");
            Exception::from(error).code
        };
        let good = native(b"hello hello hello hello");
        assert_eq!(code(&good[..good.len() - 1]), code::CANNOT_READ_ALL_DATA);
        let mut flipped = good.clone();
        flipped[30] ^= 1;
        assert_eq!(code(&flipped), code::CHECKSUM_DOESNT_MATCH);
        let mut huge = good;
        huge[CHECKSUM + 5..CHECKSUM + 9].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(code(&huge), code::TOO_LARGE_SIZE_COMPRESSED);
    }

    #[test]
    fn lz4_frames_can_be_sent_piece_by_piece() {
        let mut encoder = Encoder::new(Coding::Lz4Frame);
        let mut sent = encoder.encode(b"first,").expect("encodes");
        assert!(!sent.is_empty());
        sent.extend(encoder.encode(b"second").expect("encodes"));
        sent.extend(encoder.finish().expect("ends"));
        let mut back = Vec::new();
        lz4_flex::frame::FrameDecoder::new(&sent[..]).read_to_end(&mut back).expect("decodes");
        assert_eq!(back, b"first,second");
    }
}
