//! The audit log: who changed what and when, with the fields before and after. JSON lines in a few files of bounded size.
//! An entry that could not be written is owed: nothing more is changed until the log has it.

use super::tokens::Caller;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};

/// Files kept beside the one that is written.
const OLD_FILES: usize = 5;
/// Lists longer than this are written as their length.
const LIST_MAX: usize = 16;
/// Entries kept by a log in memory.
const MEMORY_MAX: usize = 1_000;
/// Texts longer than this are cut.
const TEXT_MAX: usize = 512;

/// Why the log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("audit log {path}: {fault}")]
pub struct AuditError {
    path: String,
    fault: io::Error,
}

/// One line of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    /// Unix seconds.
    pub at: i64,
    /// Name of the token.
    pub who: String,
    /// Its role.
    pub role: String,
    /// `api` or `mcp`.
    pub via: String,
    /// `x-request-id`.
    pub request: String,
    /// What was done, for example `plans.change`.
    pub action: String,
    /// To which record.
    pub id: String,
    /// The fields that changed, as they were.
    pub before: Value,
    /// The same, as they are.
    pub after: Value,
}

struct Open {
    file: File,
    bytes: u64,
}

/// The log has not what was changed last, so nothing more may be changed.
#[derive(Debug, thiserror::Error)]
#[error(
    "the audit log owes {owed} entries and cannot be written: {fault}; make room on its disk or mend its directory"
)]
pub(super) struct Owing {
    owed: usize,
    fault: io::Error,
}

/// The log; [`Audit::default`] keeps the newest entries in memory only.
pub struct Audit {
    /// Directory and size of one file.
    place: Option<(PathBuf, u64)>,
    open: Mutex<Option<Open>>,
    memory: Mutex<VecDeque<Entry>>,
    /// Of changes that stand, not written yet: as many as were under way when the disk failed.
    owed: Mutex<VecDeque<Entry>>,
}

impl Default for Audit {
    fn default() -> Self {
        Self { place: None, open: Mutex::new(None), memory: Mutex::default(), owed: Mutex::default() }
    }
}

fn name(number: usize) -> String {
    if number == 0 { "audit.jsonl".to_owned() } else { format!("audit.{number}.jsonl") }
}

impl Audit {
    /// Opens or makes the log in `dir`.
    ///
    /// # Errors
    /// [`AuditError`] naming the directory.
    pub fn open(dir: &Path, file_bytes: u64) -> Result<Self, AuditError> {
        let fail = |fault: io::Error| AuditError { path: dir.display().to_string(), fault };
        fs::create_dir_all(dir).map_err(fail)?;
        let audit = Self { place: Some((dir.to_owned(), file_bytes)), ..Self::default() };
        *audit.open.lock() = Some(audit.current().map_err(fail)?);
        Ok(audit)
    }

    fn current(&self) -> io::Result<Open> {
        let (dir, _) = self.place.as_ref().ok_or_else(|| io::Error::other("in memory"))?;
        let file = OpenOptions::new().create(true).append(true).open(dir.join(name(0)))?;
        let bytes = file.metadata()?.len();
        let mut open = Open { file, bytes };
        // A crash may have left half a line: the next entry must not be joined to it.
        if bytes > 0 && fs::read(dir.join(name(0)))?.last() != Some(&b'\n') {
            open.file.write_all(b"\n")?;
            open.bytes += 1;
        }
        Ok(open)
    }

    /// Writes one entry of a change that stands, and syncs it. Where that fails the entry is owed, and [`Self::settle`] says so
    /// to whoever would change something next.
    pub(super) fn write(&self, entry: Entry) {
        if self.place.is_none() {
            let mut memory = self.memory.lock();
            if memory.len() >= MEMORY_MAX {
                memory.pop_front();
            }
            memory.push_back(entry);
            return;
        }
        if let Err(error) = self.append(&entry) {
            tracing::error!(%error, action = entry.action, id = entry.id, who = entry.who, "a change is not in the audit log yet");
            self.owed.lock().push_back(entry);
        }
    }

    /// Writes what is owed. To be asked before each change.
    ///
    /// # Errors
    /// [`Owing`]: the log still cannot be written.
    pub(super) fn settle(&self) -> Result<(), Owing> {
        let mut owed = self.owed.lock();
        while let Some(entry) = owed.front() {
            self.append(entry).map_err(|fault| Owing { owed: owed.len(), fault })?;
            owed.pop_front();
        }
        Ok(())
    }

    fn append(&self, entry: &Entry) -> io::Result<()> {
        let mut slot = self.open.lock();
        let result = self.append_to(&mut slot, entry);
        if result.is_err() {
            // Half a line may be there: opening anew ends it.
            *slot = None;
        }
        result
    }

    fn append_to(&self, slot: &mut Option<Open>, entry: &Entry) -> io::Result<()> {
        let Some((dir, file_bytes)) = &self.place else { return Ok(()) };
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        let full = slot.as_ref().is_some_and(|open| open.bytes > 0 && open.bytes + line.len() as u64 > *file_bytes);
        if full {
            *slot = None;
            for number in (0..OLD_FILES).rev() {
                let (from, to) = (dir.join(name(number)), dir.join(name(number + 1)));
                if from.exists() {
                    fs::rename(from, to)?;
                }
            }
        }
        if slot.is_none() {
            *slot = Some(self.current()?);
        }
        let Some(open) = slot else { return Err(io::Error::other("the file is not open")) };
        open.file.write_all(&line)?;
        open.file.sync_data()?;
        open.bytes += line.len() as u64;
        Ok(())
    }

    /// The newest entries, newest first. A line that was cut off by a crash is passed over.
    pub(super) fn newest(&self, limit: usize) -> io::Result<Vec<Entry>> {
        let Some((dir, _)) = &self.place else {
            return Ok(self.memory.lock().iter().rev().take(limit).cloned().collect());
        };
        let mut found = Vec::new();
        for number in 0..=OLD_FILES {
            let path = dir.join(name(number));
            if found.len() >= limit || !path.exists() {
                break;
            }
            let mut lines = VecDeque::new();
            for line in BufReader::new(File::open(path)?).lines() {
                if let Ok(entry) = serde_json::from_str::<Entry>(&line?) {
                    if lines.len() + found.len() >= limit {
                        lines.pop_front();
                    }
                    lines.push_back(entry);
                }
            }
            found.extend(lines.into_iter().rev());
        }
        Ok(found)
    }
}

/// Who does something, and how.
pub(super) struct Call<'a> {
    pub(super) caller: &'a Caller,
    pub(super) via: &'static str,
    pub(super) request: String,
}

impl Call<'_> {
    /// An entry about a change; only fields that differ are kept.
    pub(super) fn entry(&self, at: i64, action: String, id: &str, change: (Option<&Value>, Option<&Value>)) -> Entry {
        let (before, after) = differences(change.0, change.1);
        Entry {
            at,
            who: self.caller.name.clone(),
            role: self.caller.role.name().to_owned(),
            via: self.via.to_owned(),
            request: self.request.clone(),
            action,
            id: id.to_owned(),
            before,
            after,
        }
    }
}

/// A value short enough for the log.
fn short(value: &Value) -> Value {
    match value {
        Value::Array(list) if list.len() > LIST_MAX => json!(format!("{} entries", list.len())),
        Value::String(text) if text.len() > TEXT_MAX => {
            json!(text.chars().take(TEXT_MAX / 4).chain("...".chars()).collect::<String>())
        }
        other => other.clone(),
    }
}

fn differences(before: Option<&Value>, after: Option<&Value>) -> (Value, Value) {
    let empty = Map::new();
    let fields = |side: Option<&Value>| side.and_then(Value::as_object).cloned().unwrap_or_else(|| empty.clone());
    let (then, now) = (fields(before), fields(after));
    let only = |own: &Map<String, Value>, other: &Map<String, Value>| {
        let changed = own.iter().filter(|(name, value)| other.get(*name) != Some(value));
        Value::Object(changed.map(|(name, value)| (name.clone(), short(value))).collect())
    };
    let side = |present: Option<&Value>, value: Value| if present.is_some() { value } else { Value::Null };
    (side(before, only(&then, &now)), side(after, only(&now, &then)))
}

#[cfg(test)]
mod tests {
    use super::super::tokens::Role;
    use super::*;

    #[test]
    fn entries_rotate_survive_and_are_read_newest_first() {
        let dir = tempfile::tempdir().unwrap();
        let caller = Caller { name: "ops".to_owned(), role: Role::Operator };
        let call = Call { caller: &caller, via: "api", request: "r".to_owned() };
        {
            let audit = Audit::open(dir.path(), 2_000).unwrap();
            for number in 0..100 {
                let (before, after) = (json!({"a": number, "b": 1}), json!({"a": number + 1, "b": 1}));
                let change = (Some(&before), Some(&after));
                audit.write(call.entry(number, "plans.change".to_owned(), "p", change));
            }
        }
        // A crash in the middle of a line.
        let mut file = OpenOptions::new().append(true).open(dir.path().join("audit.jsonl")).unwrap();
        file.write_all(b"{\"at\":1,").unwrap();
        let audit = Audit::open(dir.path(), 2_000).unwrap();
        let newest = audit.newest(20).unwrap();
        audit.write(call.entry(100, "plans.change".to_owned(), "p", (None, None)));
        assert_eq!(audit.newest(1).unwrap()[0].at, 100, "not joined to the half line");
        assert_eq!(newest.iter().map(|entry| entry.at).collect::<Vec<_>>(), (80..100).rev().collect::<Vec<_>>());
        assert_eq!((&newest[0].before, &newest[0].after), (&json!({"a": 99}), &json!({"a": 100})), "what changed only");
        let sizes = (0..10).filter_map(|n| fs::metadata(dir.path().join(name(n))).ok()).map(|m| m.len());
        assert!(sizes.clone().count() <= OLD_FILES + 1 && sizes.sum::<u64>() <= 2_000 * 7, "bounded");
    }

    /// The disk fails after a change: the next ones are refused until the entry is written, and then nothing is missing.
    #[test]
    fn what_could_not_be_written_is_owed_and_comes_first() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("audit");
        let caller = Caller { name: "ops".to_owned(), role: Role::Operator };
        let call = Call { caller: &caller, via: "api", request: "r".to_owned() };
        let entry = |at| call.entry(at, "plans.change".to_owned(), "p", (None, None));
        // Each entry fills a file, so that each write opens one.
        let audit = Audit::open(&place, 1).unwrap();
        audit.write(entry(1));
        audit.settle().unwrap();
        fs::rename(&place, dir.path().join("away")).unwrap();
        audit.write(entry(2));
        let told = audit.settle().unwrap_err().to_string();
        assert!(told.contains("owes 1 entries") && told.contains("make room"), "{told}");
        audit.settle().unwrap_err();
        fs::rename(dir.path().join("away"), &place).unwrap();
        audit.settle().unwrap();
        audit.write(entry(3));
        let times: Vec<i64> = audit.newest(10).unwrap().iter().map(|entry| entry.at).collect();
        assert_eq!(times, [3, 2, 1]);
    }
}
