//! The event log in segment files of one directory, written by one thread, named `events`.

use super::frame::{FRAME_BODY_MAX, encode, record_bytes};
use super::segments::{Segment, Tail, create, io_error, list, open_tail, replay, sync_dir};
use super::{EventError, RECORD_BYTES_MAX, Record, Sequence, Visit};
use crate::store::poison::{Poison, PoisonGuard};
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};
use parking_lot::Mutex;
use std::fmt;
use std::hash::{BuildHasher, Hasher};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use tokio::sync::oneshot;

/// Settings of a [`EventLog`].
#[derive(Clone, Debug)]
pub struct LogOptions {
    /// A new segment is begun once one has this many bytes.
    pub segment_bytes: u64,
    /// Oldest segments are removed while all together have more bytes than this (never the newest one, and none that
    /// [`EventLog::protect`] still needs).
    pub retention_bytes: u64,
    /// Most appends waiting for the writer; beyond it they are refused as busy.
    pub queue_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, retention_bytes: 16 << 30, queue_max: 4_096 }
    }
}

/// Bodies gathered into one frame before it is written.
const GROUP_BYTES: usize = 4 << 20;

type Reply = oneshot::Sender<Result<Sequence, EventError>>;

struct Job {
    records: Vec<Record>,
    reply: Reply,
}

struct Shared {
    dir: PathBuf,
    options: LogOptions,
    segments: Mutex<Vec<Segment>>,
    /// Last record on disk.
    last: AtomicU64,
    /// Records above this are still needed.
    protected: AtomicU64,
    poison: Poison,
}

/// An event log in one directory. Dropping it writes what waits.
pub struct EventLog {
    shared: Arc<Shared>,
    queue: Sender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl fmt::Debug for EventLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventLog").field("dir", &self.shared.dir).field("last", &self.last()).finish()
    }
}

impl EventLog {
    /// Opens or makes the log in `dir`. A torn last write, which nobody was told of, is cut off; any other damage to the
    /// newest segment is an error (older segments are checked when they are replayed).
    pub fn open(dir: &Path, options: LogOptions) -> Result<Self, EventError> {
        std::fs::create_dir_all(dir).map_err(|e| io_error(dir, e))?;
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_dir(parent)?;
        }
        let mut segments = list(dir)?;
        let tail = match segments.pop() {
            Some(newest) => open_tail(newest)?,
            None => create(dir, 1, new_salt(0))?,
        };
        let (queue, waiting) = bounded(options.queue_max.max(1));
        let shared = Arc::new(Shared {
            dir: dir.to_owned(),
            options,
            last: AtomicU64::new(tail.next - 1),
            protected: AtomicU64::new(u64::MAX),
            segments: Mutex::new(segments),
            poison: Poison::default(),
        });
        shared.segments.lock().push(tail.segment.clone());
        let mut writer = Writer { shared: Arc::clone(&shared), tail, buffer: Vec::new() };
        let spawned = std::thread::Builder::new().name("events".into()).spawn(move || writer.run(&waiting));
        let thread = Some(spawned.map_err(|e| io_error(dir, e))?);
        Ok(Self { shared, queue, thread })
    }

    fn send(&self, records: Vec<Record>, reply: Reply) -> Result<(), EventError> {
        if let Some(reason) = self.poisoned() {
            return Err(EventError::Poisoned(reason.to_owned()));
        }
        if let Some(long) = records.iter().find(|record| record.body.len() > RECORD_BYTES_MAX) {
            return Err(EventError::TooLong(long.body.len()));
        }
        self.queue.try_send(Job { records, reply }).map_err(|refused| match refused {
            TrySendError::Full(_) => EventError::Busy,
            TrySendError::Disconnected(_) => self.gone(),
        })
    }

    fn gone(&self) -> EventError {
        EventError::Poisoned(self.poisoned().unwrap_or("the event log was closed").to_owned())
    }

    /// Appends records in order. Resolves with the number of the last one when all are on disk.
    ///
    /// # Errors
    /// A full queue, a body that is too long, or a log that is poisoned.
    pub fn append(&self, records: Vec<Record>) -> impl Future<Output = Result<Sequence, EventError>> + Send {
        let (reply, answer) = oneshot::channel();
        let sent = self.send(records, reply);
        async move {
            sent?;
            answer.await.unwrap_or_else(|_| Err(self.gone()))
        }
    }

    /// [`EventLog::append`] for a thread that may block.
    ///
    /// # Errors
    /// As there.
    pub fn append_blocking(&self, records: Vec<Record>) -> Result<Sequence, EventError> {
        let (reply, answer) = oneshot::channel();
        self.send(records, reply)?;
        answer.blocking_recv().unwrap_or_else(|_| Err(self.gone()))
    }

    /// Calls `visit` for every retained record numbered `from` or above, in order. Blocks: for start-up and tools.
    ///
    /// # Errors
    /// A segment that is damaged or cannot be read.
    pub fn replay(&self, from: Sequence, visit: &mut Visit<'_>) -> Result<(), EventError> {
        let last = self.last();
        let segments = self.shared.segments.lock().clone();
        for (at, segment) in segments.iter().enumerate() {
            let end = segments.get(at + 1).map(|next| next.head.first);
            if end.is_some_and(|end| end <= from) || segment.head.first > last {
                continue;
            }
            if !replay(segment, from..=last, end, visit)? {
                break;
            }
        }
        Ok(())
    }

    /// Number of the last durable record, or the number before the first one.
    #[must_use]
    pub fn last(&self) -> Sequence {
        self.shared.last.load(Ordering::Acquire)
    }

    /// Keeps every record above `applied` from being removed by retention, until the next call.
    pub fn protect(&self, applied: Sequence) {
        self.shared.protected.store(applied, Ordering::Release);
    }

    /// Why the log refuses to work, or `None` while healthy.
    #[must_use]
    pub fn poisoned(&self) -> Option<&str> {
        self.shared.poison.reason()
    }
}

impl Drop for EventLog {
    fn drop(&mut self) {
        let (closed, _) = bounded(1);
        drop(std::mem::replace(&mut self.queue, closed));
        if let Some(thread) = self.thread.take() {
            let _panic_shows_in_poison = thread.join();
        }
    }
}

/// A number nobody outside can guess, from the standard library's per-process random keys.
fn new_salt(about: u64) -> u64 {
    let mut hasher = std::hash::RandomState::new().build_hasher();
    hasher.write_u64(about);
    hasher.finish()
}

struct Writer {
    shared: Arc<Shared>,
    tail: Tail,
    buffer: Vec<u8>,
}

impl Writer {
    fn run(&mut self, waiting: &Receiver<Job>) {
        let shared = Arc::clone(&self.shared);
        let guard = PoisonGuard::new(&shared.poison, "events");
        while let Ok(first) = waiting.recv() {
            let mut bytes = job_bytes(&first);
            let mut jobs = vec![first];
            while bytes < GROUP_BYTES
                && let Ok(job) = waiting.try_recv()
            {
                bytes += job_bytes(&job);
                jobs.push(job);
            }
            self.group(jobs);
        }
        guard.disarm();
    }

    fn group(&mut self, jobs: Vec<Job>) {
        let before = self.tail.next;
        let outcome = match self.shared.poison.reason() {
            Some(reason) => Err(reason.to_owned()),
            None => self.write(&jobs).map_err(|e| e.to_string()),
        };
        let mut next = before;
        for job in jobs {
            next += job.records.len() as u64;
            let answer = match &outcome {
                Ok(()) => Ok(next - 1),
                Err(reason) => Err(EventError::Poisoned(reason.clone())),
            };
            // A caller that went away needs no answer; its records stand.
            let _gone = job.reply.send(answer);
        }
        if let Err(reason) = outcome {
            self.shared.poison.set(reason);
        }
    }

    /// Writes and syncs the records of all jobs, in as few frames as their size allows.
    fn write(&mut self, jobs: &[Job]) -> Result<(), EventError> {
        let records: Vec<&Record> = jobs.iter().flat_map(|job| &job.records).collect();
        let mut rest = records.as_slice();
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = rest.iter().take_while(|record| {
                bytes += record_bytes(record);
                bytes <= FRAME_BODY_MAX
            });
            let count = fits.count().max(1);
            let (now, later) = rest.split_at(count);
            self.write_frame(now)?;
            rest = later;
        }
        self.shared.last.store(self.tail.next - 1, Ordering::Release);
        Ok(())
    }

    fn write_frame(&mut self, records: &[&Record]) -> Result<(), EventError> {
        if self.tail.segment.bytes >= self.shared.options.segment_bytes {
            self.rotate()?;
        }
        self.buffer.clear();
        encode(records.iter().copied(), self.tail.next, self.tail.segment.head.salt, &mut self.buffer);
        let write = self.tail.file.write_all(&self.buffer).and_then(|()| self.tail.file.sync_data());
        write.map_err(|e| io_error(&self.tail.segment.path, e))?;
        self.tail.next += records.len() as u64;
        self.tail.segment.bytes += self.buffer.len() as u64;
        if let Some(newest) = self.shared.segments.lock().last_mut() {
            newest.bytes = self.tail.segment.bytes;
        }
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), EventError> {
        self.tail = create(&self.shared.dir, self.tail.next, new_salt(self.tail.next))?;
        let mut segments = self.shared.segments.lock();
        segments.push(self.tail.segment.clone());
        let mut total: u64 = segments.iter().map(|segment| segment.bytes).sum();
        let protected = self.shared.protected.load(Ordering::Acquire);
        while segments.len() > 1
            && total > self.shared.options.retention_bytes
            && segments[1].head.first <= protected.saturating_add(1)
        {
            let oldest = segments.remove(0);
            std::fs::remove_file(&oldest.path).map_err(|e| io_error(&oldest.path, e))?;
            total -= oldest.bytes;
        }
        drop(segments);
        sync_dir(&self.shared.dir)
    }
}

fn job_bytes(job: &Job) -> usize {
    job.records.iter().map(record_bytes).sum()
}
