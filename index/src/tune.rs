//! How many lists to visit, and how many candidates to fetch: the fewest that reach the recall asked for, on a sample of queries made from
//! the items themselves.

use crate::frozen::Frozen;
use crate::lists::{BuildOptions, Lists, Probe, Tuned};
use crate::options::OVERFETCH_MAX;
use crate::plan::{Effort, fetch_count};
use crate::rows::pad;
use crate::scan::{Scan, scan_frozen};
use crate::topk::TopK;
use crate::{Bitmap, Hits, IndexError};

/// Queries of the sample.
const QUERIES: usize = 48;
/// Results each asks for: what a request does, roughly.
const K: usize = 200;

/// Times the candidates fetched may be doubled when compressed codes rank too coarsely for the recall asked for.
const OVERFETCH_DOUBLINGS: u32 = 3;

/// The fewest lists whose mean recall on the sample is at least `recall_min`. All of them when nothing less does: the planner then scans,
/// which costs less and finds everything.
pub(crate) fn tune(
    frozen: &Frozen,
    lists: &Lists,
    recall_min: f32,
    options: &BuildOptions<'_>,
) -> Result<Tuned, IndexError> {
    let sample = Sample::new(frozen);
    let nlist = lists.shape().nlist;
    let reaches =
        |probes, overfetch| Ok::<bool, IndexError>(sample.recall(frozen, lists, probes, overfetch)? >= recall_min);
    let mut overfetch = options.overfetch;
    if lists.shape().compressed {
        let most = (options.overfetch << OVERFETCH_DOUBLINGS).min(OVERFETCH_MAX);
        while overfetch < most && !reaches(nlist, overfetch)? {
            overfetch = (2 * overfetch).min(most);
        }
    }
    // Doubling brackets the answer, halving finds it: recall grows with the lists visited.
    let mut few = 0;
    let mut enough = 1;
    while enough < nlist && !reaches(enough, overfetch)? {
        few = enough;
        enough = (2 * enough).min(nlist);
        if (options.stop)() {
            return Ok(Tuned { probes: nlist, overfetch });
        }
    }
    while enough - few > 1.max(enough / 16) {
        let middle = few.midpoint(enough);
        if reaches(middle, overfetch)? { enough = middle } else { few = middle }
    }
    Ok(Tuned { probes: enough, overfetch })
}

/// Queries and their true results.
struct Sample {
    queries: Vec<Vec<f32>>,
    truth: Vec<Hits>,
    all: Bitmap,
    k: usize,
}

impl Sample {
    /// Half of the queries are items, half lie between two items: users are rarely where an item is.
    fn new(frozen: &Frozen) -> Self {
        let rows = frozen.rows();
        let count = QUERIES.min(rows.len());
        let row = |index: usize| rows.row(index % rows.len());
        let queries: Vec<Vec<f32>> = (0..count)
            .map(|index| {
                let at = index * rows.len() / count;
                if index % 2 == 0 {
                    pad(row(at))
                } else {
                    let other = row(at + rows.len() / 2 + index);
                    pad(&row(at).iter().zip(other).map(|(a, b)| a + b).collect::<Vec<f32>>())
                }
            })
            .collect();
        let k = K.min(rows.len() / 10).max(1);
        let all = frozen.all();
        let mut tops: Vec<TopK> = queries.iter().map(|_| TopK::new(k)).collect();
        let mut scans: Vec<Scan<'_>> =
            tops.iter_mut().zip(&queries).map(|(top, query)| Scan { query, mask: &all, top }).collect();
        scan_frozen(frozen, &mut scans);
        let truth = tops.into_iter().map(TopK::into_hits).collect();
        Self { queries, truth, all, k }
    }

    /// Mean recall when `probes` lists are visited.
    fn recall(&self, frozen: &Frozen, lists: &Lists, probes: usize, overfetch: usize) -> Result<f32, IndexError> {
        let eligible = frozen.len();
        let fetch = fetch_count(lists.shape(), Effort { nprobe: probes, overfetch }, eligible, self.k);
        let mut sum = 0.0;
        for (query, truth) in self.queries.iter().zip(&self.truth) {
            let mut top = TopK::new(self.k);
            lists.search(frozen, &Probe { query, mask: &self.all, eligible, nprobe: probes, fetch }, &mut top)?;
            sum += top.into_hits().recall_against(truth);
        }
        #[expect(clippy::cast_precision_loss, reason = "a small count")]
        Ok(sum / self.queries.len() as f32)
    }
}
