//! The right-hand side of a product, packed once: panels of 64 columns, the last one padded with zeros.

use crate::MatrixRef;
use crate::panel::Line;

/// Columns of a panel.
pub(crate) const PANEL_COLS: usize = 64;
/// Lines of one row of a panel.
const ROW_LINES: usize = PANEL_COLS / 16;

/// A matrix of `rows x cols` (inner size and columns of the product), in the form that the product kernels read.
#[derive(Debug, Clone)]
pub struct PackedMatrix {
    lines: Vec<Line>,
    rows: usize,
    cols: usize,
}

impl PackedMatrix {
    /// Packs `b` as it is: `inner x columns`.
    #[must_use]
    pub fn new(b: MatrixRef<'_>) -> Self {
        Self::pack(b.rows(), b.cols(), |row, col| b.row(row)[col])
    }

    /// Packs the transpose of `b`: `columns x inner`, as `torch.nn.Linear` stores its weight.
    #[must_use]
    pub fn transposed(b: MatrixRef<'_>) -> Self {
        Self::pack(b.cols(), b.rows(), |row, col| b.row(col)[row])
    }

    fn pack(rows: usize, cols: usize, at: impl Fn(usize, usize) -> f32) -> Self {
        let panels = cols.div_ceil(PANEL_COLS);
        let mut lines = vec![Line::default(); panels * rows * ROW_LINES];
        for (row, col) in (0..rows).flat_map(|row| (0..cols).map(move |col| (row, col))) {
            let line = (col / PANEL_COLS * rows + row) * ROW_LINES + col % PANEL_COLS / 16;
            lines[line].0[col % 16] = at(row, col).to_bits();
        }
        Self { lines, rows, cols }
    }

    /// Rows: the inner size of the product.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    #[cfg_attr(not(native_kernels), expect(dead_code, reason = "read by native kernels"))]
    pub(crate) fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The floats of `row` in the panel of columns `panel * PANEL_COLS ..`, 16 at a time.
    pub(crate) fn row(&self, panel: usize, row: usize) -> impl Iterator<Item = &[u32; 16]> {
        self.lines[(panel * self.rows + row) * ROW_LINES..][..ROW_LINES].iter().map(|line| &line.0)
    }
}
