//! How many lists to visit, and how many candidates to fetch: the fewest that reach the recall asked for, on a sample of queries made from
//! the items themselves.

use crate::frozen::Frozen;
use crate::lists::{BuildOptions, Lists, Probe, Tuned};
use crate::options::OVERFETCH_MAX;
use crate::plan::{DEPTHS, Effort, depths, fetch_count};
use crate::rows::pad;
use crate::scan::{Scan, scan_frozen};
use crate::topk::TopK;
use crate::{Bitmap, Hits, IndexError};

/// Queries of the sample.
const QUERIES: usize = 48;
/// Kinds of queries, by the number of items that they lie among.
const KINDS: [usize; 3] = [1, 2, 8];
/// Times the candidates fetched may be doubled when compressed codes rank too coarsely for the recall asked for.
const OVERFETCH_DOUBLINGS: u32 = 3;

/// For each depth, the fewest lists with which the mean recall of each kind of query is at least `recall_min`. All of them when nothing less
/// does: the planner then scans, which costs less and finds everything.
pub(crate) fn tune(
    frozen: &Frozen,
    lists: &Lists,
    recall_min: f32,
    options: &BuildOptions<'_>,
) -> Result<Tuned, IndexError> {
    let sample = Sample::new(frozen);
    let nlist = lists.shape().nlist;
    let reaches = |depth, probes, overfetch| {
        Ok::<bool, IndexError>(sample.recall(frozen, lists, depth, (probes, overfetch))? >= recall_min)
    };
    let mut overfetch = options.overfetch;
    if lists.shape().compressed {
        let most = (options.overfetch << OVERFETCH_DOUBLINGS).min(OVERFETCH_MAX);
        while overfetch < most && !reaches(0, nlist, overfetch)? {
            overfetch = (2 * overfetch).min(most);
        }
    }
    let mut probes = [nlist; DEPTHS];
    // What is not enough for one depth is not enough for a deeper one.
    let mut few = 0;
    for (depth, found) in probes.iter_mut().enumerate() {
        // Doubling brackets the answer, halving finds it: recall grows with the lists visited.
        let mut enough = (few + 1).min(nlist);
        while enough < nlist && !reaches(depth, enough, overfetch)? {
            few = enough;
            enough = (2 * enough).min(nlist);
            if (options.stop)() {
                return Ok(Tuned { probes: [nlist; DEPTHS], overfetch });
            }
        }
        while enough - few > 1.max(enough / 16) {
            let middle = few.midpoint(enough);
            if reaches(depth, middle, overfetch)? { enough = middle } else { few = middle }
        }
        *found = enough;
    }
    Ok(Tuned { probes, overfetch })
}

/// Queries and their true results.
struct Sample {
    queries: Vec<Vec<f32>>,
    /// For each depth, those of each query.
    truth: [Vec<Hits>; DEPTHS],
    all: Bitmap,
    depths: [usize; DEPTHS],
}

impl Sample {
    /// A third of the queries are items, a third lie between two items, and a third among eight: the query of a user with many
    /// interests is near none of them, and its results lie in many lists.
    fn new(frozen: &Frozen) -> Self {
        let rows = frozen.rows();
        let count = QUERIES.min(rows.len());
        let row = |index: usize| rows.row(index % rows.len());
        let queries: Vec<Vec<f32>> = (0..count)
            .map(|index| {
                let at = index * rows.len() / count;
                let mixed = KINDS[index % KINDS.len()];
                let mut query = pad(row(at));
                for other in 1..mixed {
                    let other = row(at + other * rows.len() / mixed + index);
                    query.iter_mut().zip(other).for_each(|(sum, x)| *sum += x);
                }
                query
            })
            .collect();
        let depths = depths(rows.len());
        let all = frozen.all();
        let mut tops: Vec<TopK> = queries.iter().map(|_| TopK::new(depths[DEPTHS - 1])).collect();
        let mut scans: Vec<Scan<'_>> = tops
            .iter_mut()
            .zip(&queries)
            .map(|(top, query)| Scan { query, mask: &all, eligible: rows.len(), top })
            .collect();
        scan_frozen(frozen, &mut scans);
        let deepest: Vec<Hits> = tops.into_iter().map(TopK::into_hits).collect();
        let truth = depths.map(|depth| deepest.iter().map(|hits| first(hits, depth)).collect());
        Self { queries, truth, all, depths }
    }

    /// Mean recall at a depth when `probes` lists are visited, of the kind of query that fares worst.
    fn recall(
        &self,
        frozen: &Frozen,
        lists: &Lists,
        depth: usize,
        (probes, overfetch): (usize, usize),
    ) -> Result<f32, IndexError> {
        let (eligible, k) = (frozen.len(), self.depths[depth]);
        let fetch = fetch_count(lists.shape(), Effort { nprobe: probes, overfetch, widened: 1.0 }, eligible, k);
        let mut kinds = [(0.0_f32, 0.0_f32); KINDS.len()];
        for (at, (query, truth)) in self.queries.iter().zip(&self.truth[depth]).enumerate() {
            let mut top = TopK::new(k);
            lists.search(frozen, &Probe { query, mask: &self.all, eligible, nprobe: probes, fetch }, &mut top)?;
            let (sum, count) = &mut kinds[at % KINDS.len()];
            *sum += top.into_hits().recall_against(truth);
            *count += 1.0;
        }
        Ok(kinds.iter().filter(|(_, count)| *count > 0.0).map(|(sum, count)| sum / count).fold(1.0, f32::min))
    }
}

/// The best `count` of some hits.
fn first(hits: &Hits, count: usize) -> Hits {
    let count = count.min(hits.len());
    Hits { slots: hits.slots[..count].to_vec(), scores: hits.scores[..count].to_vec() }
}
