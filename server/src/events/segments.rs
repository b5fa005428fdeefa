//! Segment files: naming, opening with a torn tail, reading.

use super::frame::{Frame, HEAD_BYTES, Head, any_frame_after};
use super::{EventError, Sequence, Visit};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

/// A segment on disk.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    pub(super) path: PathBuf,
    pub(super) head: Head,
    pub(super) bytes: u64,
}

/// The segment being written.
#[derive(Debug)]
pub(super) struct Tail {
    pub(super) file: File,
    pub(super) segment: Segment,
    pub(super) next: Sequence,
}

pub(super) fn io_error(path: &Path, cause: std::io::Error) -> EventError {
    EventError::Io { file: path.display().to_string(), cause }
}

fn damaged(path: &Path, offset: usize, fault: &'static str) -> EventError {
    EventError::Damaged { file: path.display().to_string(), offset: offset as u64, fault }
}

pub(super) fn sync_dir(dir: &Path) -> Result<(), EventError> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| io_error(dir, e))
}

/// Makes an empty segment whose header and name are on disk.
pub(super) fn create(dir: &Path, first: Sequence, salt: u64) -> Result<Tail, EventError> {
    let path = dir.join(format!("events-{first:020}.log"));
    let head = Head { first, salt };
    let make = || {
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        file.write_all(&head.encode())?;
        file.sync_all()?;
        Ok(file)
    };
    let file = make().map_err(|e| io_error(&path, e))?;
    sync_dir(dir)?;
    Ok(Tail { file, segment: Segment { path, head, bytes: HEAD_BYTES as u64 }, next: first })
}

/// Lists segments, oldest first. A last segment whose creation was cut off holds nothing and is removed.
pub(super) fn list(dir: &Path) -> Result<Vec<Segment>, EventError> {
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(|e| io_error(dir, e))? {
        let path = entry.map_err(|e| io_error(dir, e))?.path();
        let named = path.file_name().and_then(|name| name.to_str());
        if named.is_some_and(|name| name.starts_with("events-") && name.ends_with(".log")) {
            paths.push(path);
        }
    }
    paths.sort();
    let last = paths.len().saturating_sub(1);
    let mut segments = Vec::with_capacity(paths.len());
    for (at, path) in paths.into_iter().enumerate() {
        let (head, bytes) = read_head(&path).map_err(|e| io_error(&path, e))?;
        match head {
            Some(head) => segments.push(Segment { path, head, bytes }),
            None if at == last && bytes <= HEAD_BYTES as u64 => {
                std::fs::remove_file(&path).map_err(|e| io_error(&path, e))?;
                sync_dir(dir)?;
            }
            None => return Err(damaged(&path, 0, "the segment's header is wrong")),
        }
    }
    Ok(segments)
}

fn read_head(path: &Path) -> std::io::Result<(Option<Head>, u64)> {
    let mut file = File::open(path)?;
    let bytes = file.metadata()?.len();
    let mut head = Vec::with_capacity(HEAD_BYTES);
    Read::by_ref(&mut file).take(HEAD_BYTES as u64).read_to_end(&mut head)?;
    Ok((Head::decode(&head), bytes))
}

/// Opens the last segment for appending: checks every frame and cuts a torn last write off.
pub(super) fn open_tail(mut segment: Segment) -> Result<Tail, EventError> {
    let path = segment.path.clone();
    let bytes = std::fs::read(&path).map_err(|e| io_error(&path, e))?;
    let (mut offset, mut next) = (HEAD_BYTES, segment.head.first);
    loop {
        match Frame::read(&bytes, offset, segment.head.salt) {
            Ok(None) => break,
            Ok(Some(frame)) if frame.first == next => {
                next += u64::from(frame.count);
                offset = frame.end;
            }
            Ok(Some(_)) => return Err(damaged(&path, offset, "records are missing before this frame")),
            Err(fault) if any_frame_after(&bytes, offset, segment.head.salt) => {
                return Err(damaged(&path, offset, fault));
            }
            Err(_) => break,
        }
    }
    let open = || {
        let file = OpenOptions::new().append(true).open(&path)?;
        if offset < bytes.len() {
            file.set_len(offset as u64)?;
        }
        // Whole frames found here may sit in the page cache only: what is read must not vanish later.
        file.sync_all()?;
        Ok(file)
    };
    let file = open().map_err(|e| io_error(&path, e))?;
    segment.bytes = offset as u64;
    Ok(Tail { file, segment, next })
}

/// Calls `visit` for the records of one segment numbered `from..=last`. `end` is the first number after the segment, if
/// it is not the newest. False when `visit` stopped it.
pub(super) fn replay(
    segment: &Segment,
    range: std::ops::RangeInclusive<Sequence>,
    end: Option<Sequence>,
    visit: &mut Visit<'_>,
) -> Result<bool, EventError> {
    let path = &segment.path;
    let bytes = std::fs::read(path).map_err(|e| io_error(path, e))?;
    let (mut offset, mut next) = (HEAD_BYTES, segment.head.first);
    while next <= *range.end() {
        let frame = Frame::read(&bytes, offset, segment.head.salt).map_err(|fault| damaged(path, offset, fault))?;
        let Some(frame) = frame else { break };
        if frame.first != next {
            return Err(damaged(path, offset, "records are missing before this frame"));
        }
        for (number, kind, body) in frame.records() {
            if range.contains(&number) && !visit(number, kind, body) {
                return Ok(false);
            }
        }
        next += u64::from(frame.count);
        offset = frame.end;
    }
    let complete = end.unwrap_or_else(|| range.end() + 1);
    if next < complete {
        return Err(damaged(path, offset, "the segment ends before the next one starts"));
    }
    Ok(true)
}
