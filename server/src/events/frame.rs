//! Bytes of a segment, little-endian.
//!
//! ```text
//! segment  "LBEVLOG1"  first sequence u64  salt u64  crc32 of these 24 bytes u32  0 u32      then frames
//! frame    magic u32   body length u32  crc32 u32  records u32  first sequence u64            then the body
//! body     for each record: kind u8, length u32, bytes
//! ```
//!
//! A frame is what one write and one sync carried. Its checksum covers the segment's salt, its header and its body, so no
//! bytes sent from outside can pass for a frame.

use super::{Record, RecordKind, Sequence};

pub(super) const HEAD_BYTES: usize = 32;
const SEGMENT_MAGIC: &[u8; 8] = b"LBEVLOG1";
/// Not valid UTF-8, so that JSON bodies never contain it.
const FRAME_MAGIC: [u8; 4] = [0xfe, 0xff, 0x4c, 0x42];
const FRAME_HEAD_BYTES: usize = 24;
/// Longest body of a frame that a reader accepts.
pub(super) const FRAME_BODY_MAX: usize = 16 << 20;

/// A segment's own facts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) first: Sequence,
    pub(super) salt: u64,
}

impl Head {
    pub(super) fn encode(self) -> [u8; HEAD_BYTES] {
        let mut bytes = [0u8; HEAD_BYTES];
        bytes[..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..16].copy_from_slice(&self.first.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.salt.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..24]);
        bytes[24..28].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let head: &[u8; HEAD_BYTES] = bytes.first_chunk()?;
        let sound = head[..8] == *SEGMENT_MAGIC && crc32fast::hash(&head[..24]) == u32_at(head, 24);
        sound.then(|| Self { first: u64_at(head, 8), salt: u64_at(head, 16) })
    }
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0u8; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0u8; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

fn checksum(salt: u64, head: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&salt.to_le_bytes());
    hasher.update(&head[4..8]);
    hasher.update(&head[12..24]);
    hasher.update(body);
    hasher.finalize()
}

/// Bytes a record takes in a frame's body.
pub(super) fn record_bytes(record: &Record) -> usize {
    5 + record.body.len()
}

/// Appends one frame to `out`. The caller keeps the body within [`FRAME_BODY_MAX`].
pub(super) fn encode<'a>(records: impl Iterator<Item = &'a Record>, first: Sequence, salt: u64, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    let mut count = 0u32;
    for record in records {
        out.push(record.kind.0);
        out.extend_from_slice(&length_u32(record.body.len()).to_le_bytes());
        out.extend_from_slice(&record.body);
        count += 1;
    }
    let body = length_u32(out.len() - start - FRAME_HEAD_BYTES);
    let frame = &mut out[start..];
    frame[..4].copy_from_slice(&FRAME_MAGIC);
    frame[4..8].copy_from_slice(&body.to_le_bytes());
    frame[12..16].copy_from_slice(&count.to_le_bytes());
    frame[16..24].copy_from_slice(&first.to_le_bytes());
    let crc = checksum(salt, &frame[..FRAME_HEAD_BYTES], &frame[FRAME_HEAD_BYTES..]);
    frame[8..12].copy_from_slice(&crc.to_le_bytes());
}

fn length_u32(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

/// A sound frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Frame<'a> {
    pub(super) first: Sequence,
    pub(super) count: u32,
    body: &'a [u8],
    /// Where the next frame starts.
    pub(super) end: usize,
}

impl<'a> Frame<'a> {
    /// The frame at `offset`; `None` at the exact end of the bytes.
    pub(super) fn read(bytes: &'a [u8], offset: usize, salt: u64) -> Result<Option<Self>, &'static str> {
        let rest = bytes.get(offset..).unwrap_or_default();
        if rest.is_empty() {
            return Ok(None);
        }
        if rest.len() < FRAME_HEAD_BYTES {
            return Err("a frame's header is cut short");
        }
        let (head, after) = rest.split_at(FRAME_HEAD_BYTES);
        if head[..4] != FRAME_MAGIC {
            return Err("no frame starts here");
        }
        let length = u32_at(head, 4) as usize;
        if length > FRAME_BODY_MAX {
            return Err("a frame claims an impossible length");
        }
        let body = after.get(..length).ok_or("a frame is cut short")?;
        if checksum(salt, head, body) != u32_at(head, 8) {
            return Err("a frame's checksum is wrong");
        }
        let end = offset + FRAME_HEAD_BYTES + length;
        Ok(Some(Self { first: u64_at(head, 16), count: u32_at(head, 12), body, end }))
    }

    /// Its records. The checksum was right, so a malformed body is a bug and simply ends the iteration.
    pub(super) fn records(&self) -> impl Iterator<Item = (Sequence, RecordKind, &'a [u8])> + use<'a> {
        let (mut rest, mut next) = (self.body, self.first);
        std::iter::from_fn(move || {
            let (head, after) = rest.split_at_checked(5)?;
            let (body, after) = after.split_at_checked(u32_at(head, 1) as usize)?;
            rest = after;
            next += 1;
            Some((next - 1, RecordKind(head[0]), body))
        })
    }
}

/// True if a sound frame starts anywhere after `offset`: then what is wrong at `offset` is no torn last write, because a
/// frame is written only after the one before it was synced.
pub(super) fn any_frame_after(bytes: &[u8], offset: usize, salt: u64) -> bool {
    let starts = (offset + 1)..bytes.len().saturating_sub(FRAME_HEAD_BYTES - 1);
    starts.into_iter().any(|at| bytes[at..].starts_with(&FRAME_MAGIC) && Frame::read(bytes, at, salt).is_ok())
}
