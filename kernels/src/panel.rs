//! How K and V are kept for the kernels: in panels of up to 64 keys, ready to be multiplied.
//!
//! In a panel, head by head, K comes first and then V. In [`KvFormat::F32`] K is transposed, so that neighbouring floats are
//! neighbouring keys, and a row of V is padded to 16 floats. In [`KvFormat::Bf16`] words hold pairs: of neighbouring columns
//! in K (padded to 32 columns), of neighbouring keys in V; that is what a tile multiplication takes. So neither a history of
//! 10,000 events nor an append of one ever transposes or converts a key again.

use std::fmt;
use std::str::FromStr;

use crate::error::{at_least, equal};
use crate::{KernelError, MatrixRef, Shape};

/// Most keys of a panel.
pub const PANEL_KEYS: usize = 64;
/// Fewest keys of a panel, and words of a [`Line`].
const LANES: usize = 16;

/// The numbers that K and V are kept in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum KvFormat {
    /// As they were computed.
    #[default]
    F32,
    /// Rounded to bfloat16 (8 bits of precision): half the memory. CPUs with AVX-512 BF16 or AMX multiply in it; others widen it.
    Bf16,
}

impl fmt::Display for KvFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            KvFormat::F32 => "f32",
            KvFormat::Bf16 => "bf16",
        })
    }
}

impl FromStr for KvFormat {
    type Err = String;

    /// Reads `f32` or `bf16`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "f32" => Ok(KvFormat::F32),
            "bf16" => Ok(KvFormat::Bf16),
            other => Err(format!("{other:?} is no format of keys and values: use f32 or bf16")),
        }
    }
}

/// A cache line of panels: 16 words of 32 bits.
#[repr(C, align(64))]
#[derive(Debug, Clone, Copy, Default)]
pub struct Line(pub(crate) [u32; LANES]);

/// Rounds to the nearest bfloat16, ties to even; NaN stays NaN.
#[must_use]
pub fn to_bf16(x: f32) -> u16 {
    let bits = x.to_bits();
    if x.is_nan() {
        return (bits >> 16) as u16 | 0x40;
    }
    ((bits + 0x7fff + ((bits >> 16) & 1)) >> 16) as u16
}

/// Two bf16 in a word, the first in the lower half.
fn pair(low: f32, high: f32) -> u32 {
    u32::from(to_bf16(low)) | u32::from(to_bf16(high)) << 16
}

/// The float of a bfloat16.
#[must_use]
pub fn from_bf16(x: u16) -> f32 {
    f32::from_bits(u32::from(x) << 16)
}

/// Where each number of some panels lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvLayout {
    shape: Shape,
    format: KvFormat,
    panel_keys: usize,
}

impl KvLayout {
    /// Panels for up to `capacity` keys: of 64 keys each, or a smaller one for fewer.
    #[must_use]
    pub fn new(shape: Shape, format: KvFormat, capacity: usize) -> Self {
        let panel_keys = match capacity {
            0..=16 => 16,
            17..=32 => 32,
            _ => PANEL_KEYS,
        };
        Self { shape, format, panel_keys }
    }

    /// Heads and their widths.
    #[must_use]
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// The numbers they hold.
    #[must_use]
    pub fn format(&self) -> KvFormat {
        self.format
    }

    pub(crate) fn panel_keys(&self) -> usize {
        self.panel_keys
    }

    /// Lines for `keys` keys.
    #[must_use]
    pub fn lines(&self, keys: usize) -> usize {
        keys.div_ceil(self.panel_keys) * self.panel_words() / LANES
    }

    fn v_width(&self) -> usize {
        self.shape.d_v.next_multiple_of(LANES)
    }

    /// Words of K and of V, of one head in a panel.
    fn head_words(&self) -> (usize, usize) {
        match self.format {
            KvFormat::F32 => (self.shape.d_qk * self.panel_keys, self.panel_keys * self.v_width()),
            KvFormat::Bf16 => {
                (self.shape.d_qk.next_multiple_of(32) / 2 * self.panel_keys, self.panel_keys / 2 * self.v_width())
            }
        }
    }

    fn panel_words(&self) -> usize {
        let (k, v) = self.head_words();
        self.shape.heads * (k + v)
    }

    /// First word of K and of V of a head in the panel of key `row`.
    fn head_at(&self, row: usize, head: usize) -> (usize, usize) {
        let (k, v) = self.head_words();
        let at = row / self.panel_keys * self.panel_words() + head * (k + v);
        (at, at + k)
    }

    /// Writes the keys `first..` of `lines` from rows of `k` (`heads * d_qk` wide) and `v` (`heads * d_v`).
    ///
    /// # Panics
    /// When `lines` are too few or the rows have other widths, as slices do.
    pub fn write(&self, lines: &mut [Line], first: usize, k: MatrixRef<'_>, v: MatrixRef<'_>) {
        assert!(k.cols() == self.shape.qk_width() && v.cols() == self.shape.v_width(), "rows of other widths");
        let mut done = 0;
        while done < k.rows() {
            let row = first + done;
            // A whole line of keys at a time: neighbouring keys are neighbouring words of a line.
            let count = (LANES - row % LANES).min(k.rows() - done);
            for head in 0..self.shape.heads {
                let (k_at, v_at) = self.head_at(row, head);
                let mut rows = [&[][..]; LANES];
                for (i, row) in rows.iter_mut().enumerate().take(count) {
                    *row = &k.row(done + i)[head * self.shape.d_qk..][..self.shape.d_qk];
                }
                self.write_keys(&mut lines[k_at / LANES..], row, &rows[..count]);
                for (i, row) in rows.iter_mut().enumerate().take(count) {
                    *row = &v.row(done + i)[head * self.shape.d_v..][..self.shape.d_v];
                }
                self.write_values(&mut lines[v_at / LANES..], row % self.panel_keys, &rows[..count]);
            }
            done += count;
        }
    }

    /// Keys that share their lines: each line is written once, with what all of them have in its columns.
    fn write_keys(&self, lines: &mut [Line], row: usize, keys: &[&[f32]]) {
        let (step, at, lane) = (self.panel_keys / LANES, row % self.panel_keys / LANES, row % LANES);
        let columns = match self.format {
            KvFormat::F32 => 1,
            KvFormat::Bf16 => 2,
        };
        let lines = lines[at..].iter_mut().step_by(step);
        for (line, c) in lines.zip((0..self.shape.d_qk).step_by(columns)) {
            for (word, key) in line.0[lane..].iter_mut().zip(keys) {
                *word = match self.format {
                    KvFormat::F32 => key[c].to_bits(),
                    KvFormat::Bf16 => pair(key[c], key.get(c + 1).copied().unwrap_or_default()),
                };
            }
        }
    }

    /// Values of the keys from `row` of a panel on.
    fn write_values(&self, lines: &mut [Line], row: usize, values: &[&[f32]]) {
        let width = self.v_width() / LANES;
        if self.format == KvFormat::F32 {
            for (lines, value) in lines[row * width..].chunks_mut(width).zip(values) {
                for (line, part) in lines.iter_mut().zip(value.chunks(LANES)) {
                    line.0.iter_mut().zip(part).for_each(|(word, x)| *word = x.to_bits());
                }
            }
            return;
        }
        let (mut lines, mut values) = (lines[row / 2 * width..].chunks_mut(width), values);
        // The even key of the first pair may be there already.
        if let (1, [value, rest @ ..]) = (row % 2, values) {
            for (line, part) in lines.next().unwrap_or_default().iter_mut().zip(value.chunks(LANES)) {
                line.0.iter_mut().zip(part).for_each(|(word, &x)| *word = *word & 0xffff | pair(0.0, x));
            }
            values = rest;
        }
        for (lines, keys) in lines.zip(values.chunks(2)) {
            for (n, (line, low)) in lines.iter_mut().zip(keys[0].chunks(LANES)).enumerate() {
                // The other half of a pair that is not whole is cleared: it may hold a key that was dropped.
                let high = keys.get(1).map_or(&[0.0; LANES][..low.len()], |key| &key[n * LANES..][..low.len()]);
                line.0.iter_mut().zip(low.iter().zip(high)).for_each(|(word, (&x, &y))| *word = pair(x, y));
            }
        }
    }

    /// Reads key `row` of one head into `k` (`d_qk`) and `v` (`d_v`).
    ///
    /// # Panics
    /// When `lines` do not hold the key.
    pub(crate) fn read(&self, lines: &[Line], (row, head): (usize, usize), k: &mut [f32], v: &mut [f32]) {
        let (k_at, v_at) = self.head_at(row, head);
        let word = |at: usize| lines[at / LANES].0[at % LANES];
        #[expect(clippy::cast_possible_truncation, reason = "half of a word")]
        let half = |word: u32, high: bool| from_bf16((if high { word >> 16 } else { word & 0xffff }) as u16);
        let key = row % self.panel_keys;
        for (c, x) in k.iter_mut().enumerate() {
            *x = match self.format {
                KvFormat::F32 => f32::from_bits(word(k_at + c * self.panel_keys + key)),
                KvFormat::Bf16 => half(word(k_at + c / 2 * self.panel_keys + key), c % 2 == 1),
            };
        }
        for (c, x) in v.iter_mut().enumerate() {
            *x = match self.format {
                KvFormat::F32 => f32::from_bits(word(v_at + key * self.v_width() + c)),
                KvFormat::Bf16 => half(word(v_at + key / 2 * self.v_width() + c), key % 2 == 1),
            };
        }
    }

    /// Copies the first `rows` keys of `from` into this layout, which may have larger panels.
    ///
    /// # Panics
    /// When one of the two is too short, or the shapes or formats differ.
    pub fn copy_from(&self, to: &mut [Line], (from, source): (&KvLayout, &[Line]), rows: usize) {
        assert!(from.shape == self.shape && from.format == self.format, "panels of another kind");
        if from.panel_keys == self.panel_keys {
            let lines = self.lines(rows);
            to[..lines].copy_from_slice(&source[..lines]);
            return;
        }
        let (mut k, mut v) = (vec![0.0; self.shape.qk_width()], vec![0.0; self.shape.v_width()]);
        for row in 0..rows {
            for head in 0..self.shape.heads {
                let k = &mut k[head * self.shape.d_qk..][..self.shape.d_qk];
                let v = &mut v[head * self.shape.d_v..][..self.shape.d_v];
                from.read(source, (row, head), k, v);
            }
            self.write(to, row, MatrixRef::one_row(&k), MatrixRef::one_row(&v));
        }
    }
}

/// Consecutive keys of one user, oldest first: for instance one block of a K/V cache.
#[derive(Debug, Clone, Copy)]
pub struct KvBlock<'a> {
    pub(crate) layout: KvLayout,
    pub(crate) lines: &'a [Line],
    pub(crate) rows: usize,
    pub(crate) times: &'a [i64],
}

impl<'a> KvBlock<'a> {
    /// The first `rows` keys of some panels. `times` in seconds, one for each; may be empty when there is no bias.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when lines or times are too few.
    pub fn new(layout: KvLayout, lines: &'a [Line], rows: usize, times: &'a [i64]) -> Result<Self, KernelError> {
        at_least("kv lines", layout.lines(rows), lines.len())?;
        if !times.is_empty() {
            equal("kv.times length (as kv rows)", rows, times.len())?;
        }
        Ok(Self { layout, lines, rows, times })
    }

    /// Keys.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }
}

/// Panels that own their lines: keys that are made once and read as they are.
#[derive(Debug, Clone)]
pub struct KvPanels {
    layout: KvLayout,
    lines: Vec<Line>,
    rows: usize,
}

impl KvPanels {
    /// Panels of the rows of `k` and `v`.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when widths or row counts do not fit.
    pub fn from_rows(shape: Shape, format: KvFormat, k: MatrixRef<'_>, v: MatrixRef<'_>) -> Result<Self, KernelError> {
        equal("kv.k columns (heads * d_qk)", shape.qk_width(), k.cols())?;
        equal("kv.v columns (heads * d_v)", shape.v_width(), v.cols())?;
        equal("kv.v rows (as kv.k)", k.rows(), v.rows())?;
        let layout = KvLayout::new(shape, format, k.rows());
        let mut lines = vec![Line::default(); layout.lines(k.rows())];
        layout.write(&mut lines, 0, k, v);
        Ok(Self { layout, lines, rows: k.rows() })
    }

    /// All keys.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `times` has another length; it may be empty when there is no bias.
    pub fn block<'a>(&'a self, times: &'a [i64]) -> Result<KvBlock<'a>, KernelError> {
        KvBlock::new(self.layout, &self.lines, self.rows, times)
    }
}

#[cfg(test)]
mod tests {
    use super::{KvFormat, KvLayout, Line, from_bf16, to_bf16};
    use crate::{MatrixRef, Shape};

    #[test]
    fn bf16_rounds_to_the_nearest() {
        for (x, want) in [
            (1.0, 0x3f80),
            (1.0 + 1.0 / 256.0, 0x3f80),
            (1.003_906_4, 0x3f81),
            (1.0 + 3.0 / 256.0, 0x3f82),
            (-0.0, 0x8000),
        ] {
            assert_eq!(to_bf16(x), want, "{x}");
        }
        assert!(from_bf16(to_bf16(f32::NAN)).is_nan());
        assert_eq!(from_bf16(to_bf16(f32::MAX)), f32::INFINITY);
        assert_eq!(from_bf16(to_bf16(f32::NEG_INFINITY)), f32::NEG_INFINITY);
    }

    /// What is written in pieces is read back, from panels of every size, also after a copy into larger panels.
    #[test]
    fn keys_come_back() {
        let shape = Shape { heads: 3, d_qk: 5, d_v: 18 };
        let rows = 150;
        let k: Vec<f32> = (0..rows * 15).map(|i| i as f32).collect();
        let v: Vec<f32> = (0..rows * 54).map(|i| -(i as f32)).collect();
        let (k, v) = (MatrixRef::dense(&k, rows, 15).expect("k"), MatrixRef::dense(&v, rows, 54).expect("v"));
        for format in [KvFormat::F32, KvFormat::Bf16] {
            let exact = |x: f32| if format == KvFormat::F32 { x } else { from_bf16(to_bf16(x)) };
            for rows in [1, 16, 17, 31, 64, 65, 150] {
                let small = KvLayout::new(shape, format, rows);
                let mut lines = vec![Line([u32::MAX; 16]); small.lines(rows)];
                let mut first = 0;
                for piece in [1, 2, 16, 3, 40, 1000] {
                    let count = piece.min(rows - first);
                    small.write(&mut lines, first, k.rows_at(first, count), v.rows_at(first, count));
                    first += count;
                }
                let large = KvLayout::new(shape, format, 150);
                let mut copy = vec![Line::default(); large.lines(rows)];
                large.copy_from(&mut copy, (&small, &lines), rows);
                for (layout, lines) in [(small, &lines), (large, &copy)] {
                    for (row, head) in (0..rows).flat_map(|r| (0..3).map(move |h| (r, h))) {
                        let (mut a, mut b) = ([0.0; 5], [0.0; 18]);
                        layout.read(lines, (row, head), &mut a, &mut b);
                        assert!(a.iter().zip(&k.row(row)[head * 5..]).all(|(&x, &y)| x == exact(y)), "k {row} {head}");
                        assert!(b.iter().zip(&v.row(row)[head * 18..]).all(|(&x, &y)| x == exact(y)), "v {row} {head}");
                    }
                }
            }
        }
    }
}
