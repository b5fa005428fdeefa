//! The event log's files: torn tails, damage, rotation, retention.

use crate::ledger::wait;
use longbow::events::{EventError, EventLog, LogOptions, RECORD_BYTES_MAX, Record, RecordKind};
use std::path::{Path, PathBuf};

fn record(text: &str) -> Record {
    Record { kind: RecordKind::USER_EVENT, body: text.as_bytes().to_vec() }
}

fn open(dir: &Path, segment_bytes: u64) -> Result<EventLog, EventError> {
    EventLog::open(dir, LogOptions { segment_bytes, ..LogOptions::default() })
}

fn all(log: &EventLog) -> Result<Vec<String>, EventError> {
    let (mut bodies, mut next) = (Vec::new(), None);
    log.replay(1, &mut |number, kind, body| {
        assert_eq!(kind, RecordKind::USER_EVENT);
        assert_eq!(number, next.unwrap_or(number));
        next = Some(number + 1);
        bodies.push(String::from_utf8(body.to_vec()).unwrap());
        true
    })?;
    Ok(bodies)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    paths
}

/// A log of three frames; the length of its only file after each.
fn three_frames(dir: &Path) -> (PathBuf, Vec<usize>) {
    let log = open(dir, 1 << 20).unwrap();
    let path = segments(dir).remove(0);
    let mut lengths = Vec::new();
    for (at, texts) in [vec!["one", "two"], vec!["three"], vec!["four", "five", "six"]].into_iter().enumerate() {
        wait(log.append(texts.into_iter().map(record).collect())).unwrap();
        assert_eq!(log.last(), [2, 3, 6][at]);
        lengths.push(std::fs::read(&path).unwrap().len());
    }
    (path, lengths)
}

#[test]
fn a_tail_torn_at_any_byte_is_cut_and_written_over() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lengths) = three_frames(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for cut in lengths[1]..lengths[2] {
        // Shorter, or as long but with zeros where data never arrived.
        for padded in [false, true] {
            let mut torn = whole[..cut].to_vec();
            if padded {
                torn.resize(whole.len(), 0);
            }
            std::fs::write(&path, &torn).unwrap();
            let log = open(dir.path(), 1 << 20).unwrap();
            assert_eq!(log.last(), 3, "cut at {cut}");
            assert_eq!(all(&log).unwrap(), ["one", "two", "three"]);
            assert_eq!(wait(log.append(vec![record("again")])).unwrap(), 4);
            drop(log);
            let log = open(dir.path(), 1 << 20).unwrap();
            assert_eq!(all(&log).unwrap(), ["one", "two", "three", "again"]);
        }
    }
}

#[test]
fn damage_before_the_tail_is_named_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let (path, lengths) = three_frames(dir.path());
    let whole = std::fs::read(&path).unwrap();
    for at in 0..lengths[1] {
        let mut bad = whole.clone();
        bad[at] ^= 0x20;
        std::fs::write(&path, &bad).unwrap();
        let error = open(dir.path(), 1 << 20).map(drop);
        // The header's last four bytes are spare.
        if (28..32).contains(&at) {
            error.unwrap();
            continue;
        }
        let Err(EventError::Damaged { file, offset, .. }) = error else { panic!("byte {at}: {error:?}") };
        assert!(file.ends_with(".log"));
        let frame = [0, 32, lengths[0], lengths[1]].into_iter().filter(|start| *start <= at).max().unwrap();
        assert_eq!(offset, frame as u64, "byte {at}");
    }
}

#[test]
fn segments_rotate_and_a_missing_or_damaged_one_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let texts: Vec<String> = (0..200).map(|n| format!("record number {n}")).collect();
    {
        let log = open(dir.path(), 400).unwrap();
        for text in &texts {
            wait(log.append(vec![record(text)])).unwrap();
        }
        assert_eq!(all(&log).unwrap(), texts);
    }
    let paths = segments(dir.path());
    assert!(paths.len() > 10);
    let log = open(dir.path(), 400).unwrap();
    assert_eq!(all(&log).unwrap(), texts);
    let mut from = Vec::new();
    log.replay(150, &mut |number, _, _| {
        from.push(number);
        from.len() < 20
    })
    .unwrap();
    assert_eq!(from, (150..170).collect::<Vec<_>>());
    let whole = std::fs::read(&paths[3]).unwrap();
    std::fs::write(&paths[3], &whole[..whole.len() - 1]).unwrap();
    assert!(matches!(all(&log), Err(EventError::Damaged { file, .. }) if Path::new(&file) == paths[3]));
    std::fs::write(&paths[3], &whole).unwrap();
    std::fs::remove_file(&paths[4]).unwrap();
    drop(log);
    let log = open(dir.path(), 400).unwrap();
    assert!(matches!(all(&log), Err(EventError::Damaged { file, .. }) if Path::new(&file) == paths[3]));
}

#[test]
fn retention_removes_old_segments_but_none_still_needed() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { segment_bytes: 400, retention_bytes: 2_000, ..LogOptions::default() };
    let log = EventLog::open(dir.path(), options).unwrap();
    log.protect(0);
    let fill = |n: usize| {
        for _ in 0..n {
            wait(log.append(vec![record("twenty bytes of text")])).unwrap();
        }
    };
    fill(100);
    assert_eq!(all(&log).unwrap().len(), 100);
    log.protect(60);
    fill(20);
    let mut first = 0;
    log.replay(1, &mut |number, _, _| {
        first = number;
        false
    })
    .unwrap();
    assert!((52..=61).contains(&first), "{first}");
    log.protect(120);
    fill(20);
    let kept: u64 = segments(dir.path()).iter().map(|path| path.metadata().unwrap().len()).sum();
    assert!(kept <= 2_400, "{kept}");
    assert_eq!(log.last(), 140);
}

#[test]
fn a_segment_whose_creation_was_cut_off_is_made_anew() {
    let dir = tempfile::tempdir().unwrap();
    three_frames(dir.path());
    for bytes in [0, 7, 32] {
        std::fs::write(dir.path().join("events-00000000000000000007.log"), vec![0; bytes]).unwrap();
        let log = open(dir.path(), 1 << 20).unwrap();
        assert_eq!(log.last(), 6);
        assert_eq!(segments(dir.path()).len(), 1);
    }
}

#[test]
fn appends_are_ordered_bounded_and_group() {
    let dir = tempfile::tempdir().unwrap();
    let log = open(dir.path(), 1 << 20).unwrap();
    let long = Record { kind: RecordKind::USER_EVENT, body: vec![0; RECORD_BYTES_MAX + 1] };
    assert!(matches!(wait(log.append(vec![long])), Err(EventError::TooLong(_))));
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let mut last = 0;
                for n in 0..50 {
                    let number = wait(log.append(vec![record(&format!("{thread}-{n}"))])).unwrap();
                    assert!(number > last);
                    last = number;
                }
            });
        }
    });
    wait(log.append(vec![record("by the way")])).unwrap();
    wait(log.append(vec![record("end")])).unwrap();
    let bodies = all(&log).unwrap();
    assert_eq!((bodies.len(), log.last()), (202, 202));
    for thread in 0..4 {
        let prefix = format!("{thread}-");
        let mine: Vec<_> = bodies.iter().filter(|body| body.starts_with(&prefix)).collect();
        assert!(mine.iter().enumerate().all(|(n, body)| **body == format!("{thread}-{n}")), "{mine:?}");
    }
}
