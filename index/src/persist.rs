//! Saving and loading a live index.
//!
//! A directory holds one file for each part, named after the part and the first digits of its SHA-256, and `manifest.json`: one line of
//! JSON with the size and digest of each part, then the digest of that line. Parts are written and synced first, the manifest is renamed
//! into place last, so a crash leaves the former state whole. On loading, every size is checked against what the item count allows before
//! a byte is read, and every digest before a byte is parsed: FAISS reads its own part only if it is byte for byte what we wrote.

mod parts;

use std::fs;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::frozen::Frozen;
use crate::lists::{Lists, Tuned};
use crate::live::{Delta, Snapshot};
use crate::options::IndexOptions;
use crate::rows::Rows;
use crate::{IndexError, Kind};
use parts::{Part, damaged, hex_digest, io_error};

const MANIFEST: &str = "manifest.json";
const MANIFEST_BYTES_MAX: u64 = 16_384;
const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    format: u32,
    dim: usize,
    kind: Kind,
    generation: u64,
    changes: u64,
    frozen_rows: usize,
    delta_items: usize,
    /// Slots of the frozen rows, ascending, u32.
    slots: Part,
    /// Unit vectors of the frozen rows, f32.
    vectors: Part,
    /// Words of the bitmap of frozen slots that still stand, u64.
    alive: Part,
    /// Slots of the new items, u32.
    delta_slots: Part,
    /// Unit vectors of the new items, f32.
    delta_vectors: Part,
    /// The search effort found at the build.
    tuned: Tuned,
    /// The inverted lists in FAISS's format.
    lists: Option<Part>,
}

/// Writes `snapshot` to `directory`.
pub(crate) fn save(snapshot: &Snapshot, options: &IndexOptions, directory: &Path) -> Result<(), IndexError> {
    fs::create_dir_all(directory).map_err(io_error(directory))?;
    let Snapshot { frozen, alive, delta, .. } = snapshot;
    let write = |name: &'static str, bytes: &mut dyn Iterator<Item = [u8; 4]>| parts::write(directory, name, bytes);
    let rows = frozen.rows();
    let vectors = (0..rows.len()).flat_map(|row| rows.row(row)).map(|x| x.to_le_bytes());
    let new: Vec<(u32, usize)> = delta.iter().collect();
    let halves = alive.words().iter().flat_map(|word| {
        let [a, b, c, d, e, f, g, h] = word.to_le_bytes();
        [[a, b, c, d], [e, f, g, h]]
    });
    let manifest = Manifest {
        format: FORMAT,
        dim: options.dim,
        kind: options.kind,
        generation: snapshot.generation,
        changes: snapshot.changes,
        frozen_rows: frozen.len(),
        delta_items: new.len(),
        slots: write("slots", &mut frozen.slots().iter().map(|slot| slot.to_le_bytes()))?,
        vectors: write("vectors", &mut { vectors })?,
        alive: write("alive", &mut { halves })?,
        delta_slots: write("delta-slots", &mut new.iter().map(|(slot, _)| slot.to_le_bytes()))?,
        delta_vectors: write(
            "delta-vectors",
            &mut new.iter().flat_map(|&(_, place)| delta.row(place)).map(|x| x.to_le_bytes()),
        )?,
        tuned: frozen.lists().map(Lists::tuned).unwrap_or_default(),
        lists: match frozen.lists() {
            Some(lists) => Some(parts::write_bytes(directory, "lists", &lists.to_bytes()?)?),
            None => None,
        },
    };
    write_manifest(&manifest, directory)?;
    parts::remove_others(directory, &manifest.parts());
    Ok(())
}

fn write_manifest(manifest: &Manifest, directory: &Path) -> Result<(), IndexError> {
    let path = directory.join(MANIFEST);
    let fresh = directory.join("manifest.json.new");
    let line = serde_json::to_string(manifest).map_err(|error| damaged(&path, error.to_string()))?;
    let text = format!("{line}\n{}\n", hex_digest(line.as_bytes()));
    let mut file = fs::File::create(&fresh).map_err(io_error(&fresh))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(io_error(&fresh))?;
    fs::rename(&fresh, &path).map_err(io_error(&path))?;
    fs::File::open(directory).and_then(|dir| dir.sync_all()).map_err(io_error(directory))
}

impl Manifest {
    fn parts(&self) -> Vec<(&'static str, &Part)> {
        let mut parts = vec![
            ("slots", &self.slots),
            ("vectors", &self.vectors),
            ("alive", &self.alive),
            ("delta-slots", &self.delta_slots),
            ("delta-vectors", &self.delta_vectors),
        ];
        parts.extend(self.lists.as_ref().map(|lists| ("lists", lists)));
        parts
    }

    /// Reads the manifest and refuses one that is damaged, made with other settings, or larger than the options allow.
    fn read(directory: &Path, options: &IndexOptions) -> Result<Self, IndexError> {
        let path = directory.join(MANIFEST);
        let size = fs::metadata(&path).map_err(io_error(&path))?.len();
        if size > MANIFEST_BYTES_MAX {
            return Err(damaged(&path, format!("{size} bytes are more than a manifest has")));
        }
        let text = fs::read(&path).map_err(io_error(&path))?;
        let text = String::from_utf8(text).map_err(|_| damaged(&path, "not text".to_owned()))?;
        let (line, digest) = text.split_once('\n').unwrap_or((&text, ""));
        if digest.trim_end() != hex_digest(line.as_bytes()) {
            return Err(damaged(&path, "its digest does not match".to_owned()));
        }
        let manifest: Self = serde_json::from_str(line).map_err(|error| damaged(&path, error.to_string()))?;
        let mismatch = |field, expected: String, found: String| {
            Err(IndexError::Mismatch { path: directory.to_owned(), field, expected, found })
        };
        if manifest.format != FORMAT {
            return mismatch("format", FORMAT.to_string(), manifest.format.to_string());
        }
        if manifest.dim != options.dim {
            return mismatch("dim", options.dim.to_string(), manifest.dim.to_string());
        }
        if manifest.kind != options.kind {
            return mismatch("kind", options.kind.to_string(), manifest.kind.to_string());
        }
        let slots = options.slots_max as usize + 1;
        if manifest.frozen_rows > slots || manifest.delta_items > options.delta_rows_max.min(slots) {
            return Err(damaged(&path, "it counts more items than the options allow".to_owned()));
        }
        manifest.check_sizes(options).map_err(|fault| damaged(&path, fault))?;
        Ok(manifest)
    }

    /// Each part must have the size its item count gives; only the lists' size is FAISS's own affair and gets a ceiling.
    fn check_sizes(&self, options: &IndexOptions) -> Result<(), String> {
        let vector = 4 * self.dim as u64;
        let (frozen, delta) = (self.frozen_rows as u64, self.delta_items as u64);
        let exact = [
            ("slots", self.slots.bytes, 4 * frozen),
            ("vectors", self.vectors.bytes, vector * frozen),
            ("delta-slots", self.delta_slots.bytes, 4 * delta),
            ("delta-vectors", self.delta_vectors.bytes, vector * delta),
        ];
        for (name, bytes, wanted) in exact {
            if bytes != wanted {
                return Err(format!("part {name} has {bytes} bytes where {wanted} are due"));
            }
        }
        let bitmap_max = (u64::from(options.slots_max) / 64 + 1) * 8;
        if self.alive.bytes > bitmap_max || !self.alive.bytes.is_multiple_of(8) {
            return Err(format!("part alive has {} bytes", self.alive.bytes));
        }
        // Codes never take more than the vectors; a list costs its centroid and its block's padding.
        let lists_max = frozen * (vector + 64) + 65_536 * (vector + 4_096) + (1 << 20);
        if let Some(lists) = &self.lists
            && lists.bytes > lists_max
        {
            return Err(format!("part lists has {} bytes where at most {lists_max} can be due", lists.bytes));
        }
        Ok(())
    }
}

/// Reads what [`save`] wrote.
pub(crate) fn load(directory: &Path, options: &IndexOptions) -> Result<Snapshot, IndexError> {
    let manifest = Manifest::read(directory, options)?;
    let fault = |text: &str| damaged(&directory.join(MANIFEST), text.to_owned());
    let slots = parts::read_u32(directory, "slots", &manifest.slots)?;
    if !slots.is_sorted_by(|a, b| a < b) || slots.last().is_some_and(|&slot| slot > options.slots_max) {
        return Err(fault("the slots are not ascending or too large"));
    }
    let rows = read_rows(directory, ("vectors", &manifest.vectors), manifest.dim, slots.len())?;
    let lists = match &manifest.lists {
        Some(part) => {
            let bytes = parts::read(directory, "lists", part)?;
            let lists = Lists::restore(&bytes, manifest.kind, (rows.len(), manifest.dim), manifest.tuned);
            Some(lists.map_err(|error| damaged(&parts::path(directory, "lists", part), error.to_string()))?)
        }
        None => None,
    };
    let mut snapshot = Snapshot::new(Frozen::new(rows, slots, lists), manifest.dim);
    let alive = parts::read_words(directory, "alive", &manifest.alive)?;
    if alive.intersection_count(&snapshot.alive) != alive.count() {
        return Err(fault("items count as alive that are not there"));
    }
    snapshot.alive_count = alive.count();
    snapshot.alive = Arc::new(alive);
    snapshot.delta = read_delta(directory, &manifest, &snapshot, options)?;
    snapshot.generation = manifest.generation;
    snapshot.changes = manifest.changes;
    snapshot.unmerged_since = (snapshot.dead() > 0 || snapshot.delta.items() > 0).then_some(snapshot.frozen_at);
    Ok(snapshot)
}

fn read_delta(
    directory: &Path,
    manifest: &Manifest,
    snapshot: &Snapshot,
    options: &IndexOptions,
) -> Result<Delta, IndexError> {
    let slots = parts::read_u32(directory, "delta-slots", &manifest.delta_slots)?;
    let rows = read_rows(directory, ("delta-vectors", &manifest.delta_vectors), manifest.dim, slots.len())?;
    let mut delta = Delta::new(manifest.dim);
    let mut seen = crate::Bitmap::new();
    for (row, slot) in slots.into_iter().enumerate() {
        if slot > options.slots_max || snapshot.alive.get(slot) || !seen.set(slot) {
            return Err(damaged(&directory.join(MANIFEST), format!("new item slot {slot} is out of place")));
        }
        delta.push(slot, rows.row(row));
    }
    Ok(delta)
}

/// Unit vectors; one that is not of length 1 was not written by us.
fn read_rows(
    directory: &Path,
    (name, part): (&'static str, &Part),
    dim: usize,
    count: usize,
) -> Result<Rows, IndexError> {
    let values = parts::read_f32(directory, name, part)?;
    let mut rows = Rows::with_capacity(dim, count);
    for (row, vector) in values.chunks_exact(dim).enumerate() {
        let squares: f32 = vector.iter().map(|x| x * x).sum();
        if !squares.is_finite() || (squares - 1.0).abs() > 1e-3 {
            return Err(damaged(&parts::path(directory, name, part), format!("vector {row} is not of length 1")));
        }
        rows.push(vector);
    }
    if rows.len() != count {
        return Err(damaged(
            &parts::path(directory, name, part),
            format!("{} vectors where {count} are due", rows.len()),
        ));
    }
    Ok(rows)
}
