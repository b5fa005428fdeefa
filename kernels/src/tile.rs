//! Cutting an attention call into tiles, the unit of work of one thread.
//!
//! How a sequence is cut depends on that sequence's own sizes only. That makes its result independent, bit for bit, of
//! the other sequences of the call and of the number of threads.

use std::ops::Range;

use crate::panel::PANEL_KEYS;
use crate::{CandidateSeq, CausalSeq, KvBlock, KvFormat, MatrixMut, MatrixRef, Shape};

/// Rows that share one pass over the keys when there are many rows: enough to pay for streaming K and V, and
/// few enough that a slice of 1,024 rows gives 8 tiles, which 2, 4 or 8 cores share evenly.
const TALL_ROWS: usize = 132;
/// The same for calls of few rows, where balance between threads weighs more.
const SHORT_ROWS: usize = 96;
/// From this many rows on, tiles are tall.
const TALL_FROM: usize = 768;
/// Calls of at most one tile's rows are cut along the keys into ranges of about this many.
const SPLIT_KEYS: usize = 2048;
/// Tile heights are a multiple of this, so that only the last register block of a sequence is ragged.
const ROW_STEP: usize = 12;
/// Height and step where keys are kept in bf16, which AMX takes 16 rows at a time.
const PAIR_ROWS: usize = 128;
const PAIR_STEP: usize = 16;

/// Times of the event after each query's.
#[derive(Debug, Clone, Copy)]
pub(crate) enum NextTimes<'a> {
    Each(&'a [i64]),
    Same(i64),
}

/// Keys and values that belong to one row each (candidates).
#[derive(Debug, Clone, Copy)]
pub(crate) struct Own<'a> {
    pub(crate) k: MatrixRef<'a>,
    pub(crate) v: MatrixRef<'a>,
}

/// Some rows of one sequence against a range of its keys.
#[derive(Debug)]
pub(crate) struct Tile<'a> {
    pub(crate) q: MatrixRef<'a>,
    pub(crate) next: NextTimes<'a>,
    /// Position of row 0; in a causal tile row `i` stands at `first_position + i`, else all rows stand there.
    pub(crate) first_position: usize,
    pub(crate) causal: bool,
    pub(crate) keys: Range<usize>,
    pub(crate) kv: &'a [KvBlock<'a>],
    pub(crate) own: Option<Own<'a>>,
    /// Overwritten with the scaled sums over `keys` (and the own rows).
    pub(crate) out: MatrixMut<'a>,
}

impl NextTimes<'_> {
    pub(crate) fn at(&self, row: usize) -> i64 {
        match self {
            NextTimes::Each(times) => times.get(row).copied().unwrap_or(0),
            NextTimes::Same(time) => *time,
        }
    }
}

impl Tile<'_> {
    /// Multiply-adds, near enough to order tiles by.
    pub(crate) fn cost(&self, shape: Shape) -> usize {
        self.q.rows() * (self.keys.len() + 1) * (shape.qk_width() + shape.v_width())
    }

    /// The numbers that the keys are kept in.
    pub(crate) fn format(&self) -> KvFormat {
        self.kv.first().map_or(KvFormat::F32, |block| block.layout.format())
    }

    /// The keys that row `i` sees, within the tile's range.
    pub(crate) fn visible(&self, row: usize) -> Range<usize> {
        let end = if self.causal { self.keys.end.min(self.first_position + row + 1) } else { self.keys.end };
        self.keys.start..end.max(self.keys.start)
    }
}

/// How one sequence is cut: either rows or keys, never both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) rows: usize,
    /// Number of key ranges; above 1 the ranges' sums are added up afterwards, in order.
    pub(crate) ranges: usize,
    keys_per_range: usize,
}

impl Cut {
    pub(crate) fn new(rows: usize, keys: usize, format: KvFormat) -> Self {
        let (rows_max, step) = match format {
            KvFormat::F32 if rows >= TALL_FROM => (TALL_ROWS, ROW_STEP),
            KvFormat::F32 => (SHORT_ROWS, ROW_STEP),
            KvFormat::Bf16 => (PAIR_ROWS, PAIR_STEP),
        };
        let tiles = rows.div_ceil(rows_max).max(1);
        let tile_rows = rows.div_ceil(tiles).next_multiple_of(step).max(step);
        let wanted = if tiles == 1 { keys.div_ceil(SPLIT_KEYS).max(1) } else { 1 };
        let keys_per_range = keys.div_ceil(wanted).next_multiple_of(PANEL_KEYS).max(PANEL_KEYS);
        Self { rows: tile_rows, ranges: keys.div_ceil(keys_per_range).max(1), keys_per_range }
    }

    /// Where range `index` ends: at the first panel at or after its share of the keys.
    fn end(&self, index: usize, kv: &[KvBlock<'_>], keys: usize) -> usize {
        if index + 1 == self.ranges { keys } else { panel_from(kv, (index + 1) * self.keys_per_range).min(keys) }
    }
}

/// The first panel that starts at `key` or after it.
fn panel_from(kv: &[KvBlock<'_>], key: usize) -> usize {
    let mut first = 0;
    for block in kv {
        if key < first + block.rows {
            return first + (key - first).next_multiple_of(block.layout.panel_keys()).min(block.rows);
        }
        first += block.rows;
    }
    first
}

/// A whole sequence in the form of one tile, before it is cut.
pub(crate) fn causal_tile<'s>(seq: &'s mut CausalSeq<'_>) -> Tile<'s> {
    Tile {
        q: seq.q,
        next: NextTimes::Each(seq.next_times),
        first_position: seq.first_position,
        causal: true,
        keys: 0..seq.first_position + seq.q.rows(),
        kv: seq.kv,
        own: None,
        out: seq.out.reborrow(),
    }
}

/// The same for candidate rows.
pub(crate) fn candidate_tile<'s>(seq: &'s mut CandidateSeq<'_>) -> Tile<'s> {
    let keys = seq.kv.iter().map(KvBlock::rows).sum();
    Tile {
        q: seq.q,
        next: NextTimes::Same(seq.query_time),
        first_position: keys,
        causal: false,
        keys: 0..keys,
        kv: seq.kv,
        own: Some(Own { k: seq.own_k, v: seq.own_v }),
        out: seq.out.reborrow(),
    }
}

/// Cuts `whole` along its rows and appends the tiles to `tiles`.
pub(crate) fn cut_rows<'a>(whole: Tile<'a>, cut: Cut, tiles: &mut Vec<Tile<'a>>) {
    let Tile { q, next, first_position, causal, keys, kv, own, mut out } = whole;
    let mut start = 0;
    while start < q.rows() {
        let rows = cut.rows.min(q.rows() - start);
        let (head, rest) = out.split_rows(rows);
        out = rest;
        let next = match next {
            NextTimes::Each(times) if !times.is_empty() => NextTimes::Each(&times[start..start + rows]),
            same => same,
        };
        let position = if causal { first_position + start } else { first_position };
        tiles.push(Tile {
            q: q.rows_at(start, rows),
            next,
            first_position: position,
            causal,
            keys: if causal { keys.start..keys.end.min(position + rows) } else { keys.clone() },
            kv,
            own: own.map(|o| Own { k: o.k.rows_at(start, rows), v: o.v.rows_at(start, rows) }),
            out: head,
        });
        start += rows;
    }
}

/// Cuts a sequence along its keys: range `r` writes to rows `r * m ..` of `partial` (`ranges * m x heads * d_v`).
pub(crate) fn cut_keys<'a>(whole: &Tile<'a>, cut: Cut, partial: MatrixMut<'a>, tiles: &mut Vec<Tile<'a>>) {
    let (mut rest, mut begin) = (partial, 0);
    for index in 0..cut.ranges {
        let end = cut.end(index, whole.kv, whole.keys.end);
        let (out, tail) = rest.split_rows(whole.q.rows());
        rest = tail;
        tiles.push(Tile {
            q: whole.q,
            next: whole.next,
            first_position: whole.first_position,
            causal: whole.causal,
            keys: begin..end,
            kv: whole.kv,
            own: if index == 0 { whole.own } else { None },
            out,
        });
        begin = end;
    }
}

#[cfg(test)]
mod tests {
    use super::{Cut, SHORT_ROWS};
    use crate::panel::PANEL_KEYS;
    use crate::{KvBlock, KvFormat, KvPanels, MatrixRef, Shape};

    #[test]
    fn ranges_cover_all_keys_and_start_at_panels() {
        let shape = Shape { heads: 1, d_qk: 1, d_v: 1 };
        let data = vec![0.0; 10_241];
        for keys in [0, 1, 63, 64, 65, 2047, 2048, 2049, 10_000, 10_241] {
            for block_rows in [256, 100, 7] {
                let rows = |first: usize| MatrixRef::dense(&data, block_rows.min(keys - first), 1).expect("rows");
                let panels: Vec<KvPanels> = (0..keys)
                    .step_by(block_rows)
                    .map(|first| KvPanels::from_rows(shape, KvFormat::F32, rows(first), rows(first)).expect("panels"))
                    .collect();
                let kv: Vec<KvBlock<'_>> = panels.iter().map(|p| p.block(&[]).expect("block")).collect();
                let sizes = [1, 3, SHORT_ROWS, SHORT_ROWS + 1, 5000];
                for (rows, format) in sizes.into_iter().flat_map(|n| [(n, KvFormat::F32), (n, KvFormat::Bf16)]) {
                    let cut = Cut::new(rows, keys, format);
                    let mut begin = 0;
                    for index in 0..cut.ranges {
                        let end = cut.end(index, &kv, keys);
                        let within = end % block_rows;
                        let starts_panel = end == keys || within.is_multiple_of(PANEL_KEYS.min(block_rows));
                        assert!(
                            starts_panel && end >= begin,
                            "{rows} rows, {keys} keys in blocks of {block_rows}: {end}"
                        );
                        begin = end;
                    }
                    assert_eq!(begin, keys);
                    assert!(cut.ranges == 1 || rows <= cut.rows, "a sequence is cut one way only");
                }
            }
        }
    }
}
