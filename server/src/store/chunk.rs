//! A chunk: up to [`CHUNK_EVENTS`] events of one user as one value on disk.
//!
//! ```text
//! count u32 | times i64 x count | items i64 x count | actions u16 x count      little-endian
//! ```
//!
//! With its key, a full chunk fits in two pages of 4 KiB. A user's chunks are numbered; all but the last are full, so
//! appending rewrites one chunk of at most 8 KB however long the history is.

use super::history::History;
use crate::ids::ItemKey;

/// Events in a full chunk.
pub(super) const CHUNK_EVENTS: usize = 440;

/// Bytes of events `from..to` of a history.
pub(super) fn encode(history: &History, from: usize, to: usize, out: &mut Vec<u8>) {
    out.clear();
    out.reserve(4 + 18 * (to - from));
    out.extend_from_slice(&u32::try_from(to - from).unwrap_or(u32::MAX).to_le_bytes());
    for time in &history.times[from..to] {
        out.extend_from_slice(&time.to_le_bytes());
    }
    for item in &history.items[from..to] {
        out.extend_from_slice(&item.0.to_le_bytes());
    }
    for action in &history.actions[from..to] {
        out.extend_from_slice(&action.to_le_bytes());
    }
}

/// Appends a chunk's events, less the first `skip`, to a history.
pub(super) fn decode_into(bytes: &[u8], skip: usize, history: &mut History) -> Result<(), &'static str> {
    let (count, columns) = bytes.split_first_chunk::<4>().ok_or("a chunk is shorter than its count")?;
    let count = u32::from_le_bytes(*count) as usize;
    if columns.len() != 18 * count {
        return Err("a chunk's length does not match its count");
    }
    if skip > count {
        return Err("more events are skipped than a chunk has");
    }
    let (times, rest) = columns.split_at(8 * count);
    let (items, actions) = rest.split_at(8 * count);
    let (times, _) = times[8 * skip..].as_chunks::<8>();
    let (items, _) = items[8 * skip..].as_chunks::<8>();
    let (actions, _) = actions[2 * skip..].as_chunks::<2>();
    history.times.extend(times.iter().map(|time| i64::from_le_bytes(*time)));
    history.items.extend(items.iter().map(|item| ItemKey(i64::from_le_bytes(*item))));
    history.actions.extend(actions.iter().map(|action| u16::from_le_bytes(*action)));
    Ok(())
}

/// Time of a chunk's first event.
pub(super) fn first_time(bytes: &[u8]) -> Option<i64> {
    bytes.get(4..12)?.first_chunk::<8>().map(|time| i64::from_le_bytes(*time))
}

/// Time of a chunk's last event.
pub(super) fn last_time(bytes: &[u8]) -> Option<i64> {
    let count = u32::from_le_bytes(*bytes.first_chunk::<4>()?) as usize;
    let at = 4 + 8 * count.checked_sub(1)?;
    bytes.get(at..at + 8)?.first_chunk::<8>().map(|time| i64::from_le_bytes(*time))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_come_back_and_damage_is_seen() {
        let mut history = History::default();
        for n in 0..5i64 {
            history.push(ItemKey(n - 2), u16::try_from(n + 1).unwrap(), 100 * n);
        }
        let mut bytes = Vec::new();
        encode(&history, 1, 5, &mut bytes);
        assert_eq!((first_time(&bytes), last_time(&bytes)), (Some(100), Some(400)));
        assert_eq!((last_time(&bytes[..20]), last_time(&[0; 4]), last_time(&[])), (None, None, None));
        let mut back = History::default();
        decode_into(&bytes, 1, &mut back).unwrap();
        assert_eq!(back.times, [200, 300, 400]);
        assert_eq!(back.items, [ItemKey(0), ItemKey(1), ItemKey(2)]);
        assert_eq!(back.actions, [3, 4, 5]);
        assert!(decode_into(&bytes[..bytes.len() - 1], 0, &mut back).is_err());
        assert!(decode_into(&bytes, 5, &mut back).is_err());
        assert!(decode_into(&bytes[..2], 0, &mut back).is_err());
    }
}
