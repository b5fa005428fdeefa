//! Exact search: every eligible row is scored, in blocks that stay in the core's cache while all queries of a call pass over them. Where
//! many rows are eligible they are scored by their codes first, and in full those that may be among the best.

use crate::frozen::{Frozen, NO_ROW};
use crate::rows::Rows;
use crate::sieve::Sieve;
use crate::topk::TopK;
use crate::{Bitmap, ffi};

/// Rows scored by one call, and the words of a bitmap that cover as many slots.
const BLOCK: usize = 256;
const BLOCK_WORDS: usize = BLOCK / 64;
/// Where fewer than one row in so many is eligible, each is picked: a picked row costs as much as so many that lie together.
const APART_AT: usize = 4;

/// One query on its way through a scan.
pub(crate) struct Scan<'a> {
    /// Padded like the rows.
    pub(crate) query: &'a [f32],
    /// Slots that may be returned; every one of them is alive in the part that is scanned.
    pub(crate) mask: &'a Bitmap,
    /// How many those are.
    pub(crate) eligible: usize,
    /// Where hits go.
    pub(crate) top: &'a mut TopK,
}

/// Scores every slot of each query's mask among the frozen items.
pub(crate) fn scan_frozen(frozen: &Frozen, scans: &mut [Scan<'_>]) {
    let words = scans.iter().map(|scan| scan.mask.words().len()).max().unwrap_or(0);
    let mut sieves: Vec<Option<Sieve>> = scans
        .iter()
        .map(|scan| {
            let k = scan.top.wanted();
            Sieve::pays(scan.eligible, k).then(|| Sieve::new(frozen.codes(), scan.query, k))
        })
        .collect();
    let mut picked = Picked::default();
    for block in (0..words).step_by(BLOCK_WORDS) {
        for (scan, sieve) in scans.iter_mut().zip(&mut sieves) {
            match sieve {
                Some(sieve) => sift(frozen, scan.mask, block, sieve, &mut picked),
                None => {
                    picked.pick(frozen, scan.mask, block);
                    picked.score_into(scan.query, frozen.rows(), scan.top);
                }
            }
        }
    }
    for (scan, sieve) in scans.iter_mut().zip(sieves) {
        for part in sieve.map(Sieve::into_rows).unwrap_or_default().chunks(BLOCK) {
            picked.clear();
            part.iter().for_each(|&row| picked.add(frozen.slots()[row as usize], row));
            picked.score_into(scan.query, frozen.rows(), scan.top);
        }
    }
}

/// The first pass over the slots of one block. Where many of its rows are eligible all are scored, as they lie together, and only those
/// that score enough are asked for.
fn sift(frozen: &Frozen, mask: &Bitmap, block: usize, sieve: &mut Sieve, picked: &mut Picked) {
    let end = (block + BLOCK_WORDS).min(mask.words().len());
    let words = mask.words().get(block..end).unwrap_or_default();
    let eligible: u32 = words.iter().map(|word| word.count_ones()).sum();
    let rows = frozen.rows_in(block..block + BLOCK_WORDS);
    if eligible as usize * APART_AT < rows.len() {
        picked.pick(frozen, mask, block);
        sieve.take(frozen.codes(), &picked.rows[..picked.len], &mut picked.scores, |_| true);
    } else if eligible > 0 {
        let count = rows.len();
        picked.rows.iter_mut().zip(rows).for_each(|(place, row)| *place = row);
        let slots = frozen.slots();
        sieve.take(frozen.codes(), &picked.rows[..count], &mut picked.scores, |row| mask.get(slots[row as usize]));
    }
}

/// Up to one block of rows to be scored, with the slots they stand for.
pub(crate) struct Picked {
    slots: [u32; BLOCK],
    rows: [u32; BLOCK],
    scores: [f32; BLOCK],
    len: usize,
}

impl Default for Picked {
    fn default() -> Self {
        Self { slots: [0; BLOCK], rows: [0; BLOCK], scores: [0.0; BLOCK], len: 0 }
    }
}

impl Picked {
    /// Rows one fill can hold.
    pub(crate) const CAPACITY: usize = BLOCK;

    /// The rows of the slots of `mask` in one block, nothing else.
    fn pick(&mut self, frozen: &Frozen, mask: &Bitmap, block: usize) {
        self.clear();
        for slot in mask.iter_words(block, block + BLOCK_WORDS) {
            let row = frozen.row_of(slot);
            if row != NO_ROW {
                self.add(slot, row);
            }
        }
    }

    pub(crate) fn clear(&mut self) {
        self.len = 0;
    }

    /// Adds a row; at most [`CAPACITY`](Self::CAPACITY) between two clears.
    #[inline]
    pub(crate) fn add(&mut self, slot: u32, row: u32) {
        self.slots[self.len] = slot;
        self.rows[self.len] = row;
        self.len += 1;
    }

    /// Scores the rows picked and offers them to `top`.
    pub(crate) fn score_into(&mut self, query: &[f32], rows: &Rows, top: &mut TopK) {
        if self.len == 0 {
            return;
        }
        ffi::score(query, rows, &self.rows[..self.len], &mut self.scores);
        for (&score, &slot) in self.scores[..self.len].iter().zip(&self.slots) {
            top.push(score, slot);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frozen::arrange;
    use crate::rows::pad;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    /// Items in clusters so tight that codes alone mix up their members, some of them twice.
    fn frozen(rng: &mut StdRng, dim: usize, spread: f32) -> Frozen {
        let mut vectors: Vec<f32> = Vec::new();
        for _ in 0..8 {
            let middle: Vec<f32> = (0..dim).map(|_| rng.random_range(-1.0..1.0)).collect();
            for member in 0..400 {
                match member % 50 {
                    49 => vectors.extend_from_within(vectors.len() - dim..),
                    _ => vectors.extend(middle.iter().map(|x| x + spread * rng.random_range(-1.0..1.0))),
                }
            }
        }
        let slots: Vec<u32> = (0..3_200).map(|row| 2 * row + row % 2).collect();
        let (rows, slots) = arrange(dim, &slots, &vectors, u32::MAX).unwrap();
        Frozen::new(rows, slots, None)
    }

    /// What comes through the sieve is what scoring everything gives, to the bit and the last tie.
    #[test]
    fn the_first_pass_loses_nothing() {
        let mut rng = StdRng::seed_from_u64(7);
        for (dim, spread) in [(3, 0.01), (16, 0.0), (24, 0.003), (64, 0.05), (100, 1.0)] {
            let frozen = frozen(&mut rng, dim, spread);
            let mut mask = frozen.all();
            frozen.slots().iter().step_by(7).for_each(|&slot| assert!(mask.clear(slot)));
            for (mask, size) in [(&frozen.all(), 1.0), (&mask, 1e-3), (&mask, 40.0)] {
                let query: Vec<f32> = (0..dim).map(|_| size * rng.random_range(-1.0_f32..1.0)).collect();
                let near: Vec<f32> = frozen.rows().row(rng.random_range(0..3_200)).iter().map(|x| size * x).collect();
                for (query, k) in [(&query, 1), (&near, 1), (&near, 7), (&query, 30), (&near, 42)] {
                    let query = pad(query);
                    let [full, sifted] = [0, mask.count()].map(|eligible| {
                        let mut top = TopK::new(k);
                        scan_frozen(&frozen, &mut [Scan { query: &query, mask, eligible, top: &mut top }]);
                        top.into_hits()
                    });
                    assert!(Sieve::pays(mask.count(), k) && !Sieve::pays(0, k));
                    assert_eq!(full, sifted, "{dim} {spread} {size} {k}");
                }
            }
        }
    }
}
