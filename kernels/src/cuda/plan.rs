//! Cuts jobs into work items: pure, and by each job's own shape alone, so that no job's sums depend on its neighbours.

use super::params::{PAGE_ROWS, Sums, TILE_ROWS, Work};

/// Work items that one job should make where it can: enough to fill a large GPU alone.
const ITEMS_WANTED: usize = 264;
/// Fewest pages of one range of keys: below this the sums cost more than the wait.
const RANGE_PAGES_MIN: usize = 2;
/// Most pages of one range: so that the longest item does not outlast the others.
const RANGE_PAGES_MAX: usize = 64;

/// Query rows of one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rows {
    /// First row in the packed rows.
    pub first: usize,
    /// Rows.
    pub count: usize,
    /// Position of the first; rows of a causal job stand one after another, others all here.
    pub position: usize,
    /// Keys of the job; a causal row sees no key after its own position.
    pub keys: usize,
    /// First entry of the job's page table.
    pub table: usize,
    /// Whether a row sees only keys up to its own.
    pub causal: bool,
}

/// Work items and where their sums go.
#[derive(Debug, Clone, Default)]
pub struct Plan {
    /// Longest first.
    pub work: Vec<Work>,
    /// One entry for each packed row.
    pub sums: Vec<Sums>,
    /// Rows of sums.
    pub sum_rows: usize,
}

#[expect(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "passes are far below 2^31 rows")]
fn int(x: usize) -> i32 {
    debug_assert!(x < 1 << 31);
    x as i32
}

/// Pages of one range of keys, for a tile of a job.
fn range_pages(job: &Rows, groups: usize) -> usize {
    let tiles = job.count.div_ceil(TILE_ROWS) * groups;
    let pages = job.keys.div_ceil(PAGE_ROWS).max(1);
    let ranges = ITEMS_WANTED.div_ceil(tiles).min(pages.div_ceil(RANGE_PAGES_MIN)).max(1);
    pages.div_ceil(ranges).min(RANGE_PAGES_MAX)
}

impl Plan {
    /// Cuts jobs for `groups` groups of heads. `own`: each row adds its own key and value, which no page holds.
    #[must_use]
    pub fn new(jobs: &[Rows], groups: usize, own: bool) -> Self {
        let mut plan = Self::default();
        for job in jobs {
            let range = range_pages(job, groups);
            for first in (0..job.count).step_by(TILE_ROWS) {
                plan.tile(job, first, (groups, range), own);
            }
        }
        // A stable sort: equal items keep the order of the jobs.
        plan.work.sort_by_key(|w| std::cmp::Reverse(w.key_end - w.key_begin));
        plan
    }

    fn tile(&mut self, job: &Rows, first: usize, (groups, range): (usize, usize), own: bool) {
        let rows = TILE_ROWS.min(job.count - first);
        let position = if job.causal { job.position + first } else { job.position };
        let keys = if job.causal { job.keys.min(position + rows) } else { job.keys };
        let pages = keys.div_ceil(PAGE_ROWS);
        let ranges = pages.div_ceil(range);
        for at in 0..ranges {
            let begin = pages * at / ranges * PAGE_ROWS;
            let end = keys.min(pages * (at + 1) / ranges * PAGE_ROWS);
            for group in 0..groups {
                self.work.push(Work {
                    q_row: int(job.first + first),
                    rows: int(rows),
                    position: int(position),
                    key_begin: int(begin),
                    key_end: int(end),
                    table: int(job.table),
                    out_row: int(self.sum_rows + at * rows),
                    group: int(group),
                });
            }
        }
        for row in 0..rows {
            let first = int(self.sum_rows + row);
            self.sums.push(Sums { first, stride: int(rows), ranges: int(ranges), own: i32::from(own) });
        }
        self.sum_rows += ranges * rows;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Every pair of a row and a key that it sees lies in exactly one item of each group, and every sum row is
        /// written by exactly one item of each group.
        #[test]
        fn every_pair_lies_in_one_item(
            shapes in prop::collection::vec((1_usize..300, 0_usize..1500, any::<bool>()), 1..4),
            groups in 1_usize..4,
        ) {
            let (mut jobs, mut first, mut table) = (Vec::new(), 0, 0);
            for (count, before, causal) in shapes {
                let keys = if causal { before + count } else { before };
                jobs.push(Rows { first, count, position: before, keys, table, causal });
                first += count;
                table += keys.div_ceil(PAGE_ROWS);
            }
            let plan = Plan::new(&jobs, groups, false);
            prop_assert_eq!(plan.sums.len(), first);
            let mut written = vec![0; plan.sum_rows * groups];
            for w in &plan.work {
                prop_assert!(w.key_begin < w.key_end && w.key_begin % 64 == 0 && w.rows >= 1);
                for row in 0..w.rows {
                    written[(w.out_row + row) as usize * groups + w.group as usize] += 1;
                }
            }
            prop_assert!(written.iter().all(|&n| n == 1));
            for job in &jobs {
                for row in 0..job.count {
                    let sum = plan.sums[job.first + row];
                    let mine: Vec<_> = (0..sum.ranges).map(|i| sum.first + i * sum.stride).collect();
                    let at = int(job.first + row);
                    let items = plan.work.iter().filter(|w| w.group == 0);
                    let mut keys: Vec<(i32, i32)> = items
                        .filter(|w| mine.contains(&(w.out_row + at - w.q_row)) && (w.q_row..w.q_row + w.rows).contains(&at))
                        .map(|w| (w.key_begin, w.key_end))
                        .collect();
                    keys.sort_unstable();
                    let sees = if job.causal { job.position + row + 1 } else { job.keys };
                    let mut at = 0;
                    for (begin, end) in keys {
                        prop_assert_eq!(begin, at);
                        at = end;
                    }
                    prop_assert!(at as usize >= sees, "row {} of {:?} reaches {}", row, job, at);
                }
            }
        }

        /// A job's ranges are the same whatever else is in the call.
        #[test]
        fn neighbours_do_not_matter(count in 1_usize..500, keys in 0_usize..3000, other in 1_usize..500) {
            let job = |first, table| Rows { first, count, position: keys, keys, table, causal: false };
            let alone = Plan::new(&[job(0, 0)], 2, true);
            let before = Rows { first: 0, count: other, position: 100, keys: 100, table: 0, causal: false };
            let beside = Plan::new(&[before, job(other, 2)], 2, true);
            let cut = |plan: &Plan, from: usize| -> Vec<_> {
                plan.sums[from..].iter().map(|s| (s.stride, s.ranges)).collect()
            };
            prop_assert_eq!(cut(&alone, 0), cut(&beside, other));
        }
    }
}
