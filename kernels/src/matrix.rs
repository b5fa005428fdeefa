//! Row-major f32 views with a row stride, so that the parts of one wide projection are read in place.

use crate::KernelError;
use crate::error::at_least;

/// Elements that a view of this form needs: the last row may end at its last column.
fn needed(rows: usize, cols: usize, stride: usize) -> usize {
    if rows == 0 { 0 } else { (rows - 1).saturating_mul(stride).saturating_add(cols) }
}

/// A read-only matrix: element `(r, c)` is `data[r * stride + c]`.
#[derive(Debug, Clone, Copy)]
pub struct MatrixRef<'a> {
    data: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

/// A writable matrix: element `(r, c)` is `data[r * stride + c]`. Elements between rows are never touched.
#[derive(Debug)]
pub struct MatrixMut<'a> {
    data: &'a mut [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> MatrixRef<'a> {
    /// A view of `rows x cols` with `stride` floats from one row to the next.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `stride < cols` or `data` is too short.
    pub fn new(data: &'a [f32], rows: usize, cols: usize, stride: usize) -> Result<Self, KernelError> {
        at_least("matrix stride", cols, stride)?;
        at_least("matrix data length", needed(rows, cols, stride), data.len())?;
        Ok(Self { data, rows, cols, stride })
    }

    /// A view without gaps between rows.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `data` is too short.
    pub fn dense(data: &'a [f32], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::new(data, rows, cols, cols)
    }

    /// A matrix of one row.
    #[must_use]
    pub fn one_row(data: &'a [f32]) -> Self {
        Self { data, rows: 1, cols: data.len(), stride: data.len() }
    }

    /// A matrix of no rows.
    #[must_use]
    pub fn empty(cols: usize) -> Self {
        Self { data: &[], rows: 0, cols, stride: cols }
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Floats from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    ///
    /// # Panics
    /// When `r` is not below `rows()`, as a slice does.
    #[must_use]
    pub fn row(&self, r: usize) -> &'a [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &self.data[r * self.stride..][..self.cols]
    }

    /// The rows from `start` to `start + len`.
    ///
    /// # Panics
    /// When they leave the matrix, as a slice does.
    #[must_use]
    pub fn rows_at(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.rows && len <= self.rows - start, "rows {start}+{len} of {}", self.rows);
        let data = if len == 0 { &[] } else { &self.data[start * self.stride..] };
        Self { data, rows: len, ..*self }
    }

    /// The columns from `start` to `start + len`, same rows.
    ///
    /// # Panics
    /// When they leave the matrix, as a slice does.
    #[must_use]
    pub fn cols_at(&self, start: usize, len: usize) -> Self {
        assert!(start <= self.cols && len <= self.cols - start, "columns {start}+{len} of {}", self.cols);
        let data = if self.rows == 0 { &[] } else { &self.data[start..] };
        Self { data, cols: len, ..*self }
    }

    /// The floats from element (0, 0) on.
    pub(crate) fn data(&self) -> &'a [f32] {
        self.data
    }
}

impl<'a> MatrixMut<'a> {
    /// A view of `rows x cols` with `stride` floats from one row to the next.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `stride < cols` or `data` is too short.
    pub fn new(data: &'a mut [f32], rows: usize, cols: usize, stride: usize) -> Result<Self, KernelError> {
        at_least("matrix stride", cols, stride)?;
        at_least("matrix data length", needed(rows, cols, stride), data.len())?;
        Ok(Self { data, rows, cols, stride })
    }

    /// A view without gaps between rows.
    ///
    /// # Errors
    /// [`KernelError::Shape`] when `data` is too short.
    pub fn dense(data: &'a mut [f32], rows: usize, cols: usize) -> Result<Self, KernelError> {
        Self::new(data, rows, cols, cols)
    }

    /// Rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Floats from one row to the next.
    #[must_use]
    pub fn stride(&self) -> usize {
        self.stride
    }

    /// Row `r`.
    ///
    /// # Panics
    /// When `r` is not below `rows()`, as a slice does.
    pub fn row_mut(&mut self, r: usize) -> &mut [f32] {
        assert!(r < self.rows, "row {r} of {}", self.rows);
        &mut self.data[r * self.stride..][..self.cols]
    }

    /// The same matrix, read only.
    #[must_use]
    pub fn as_ref(&self) -> MatrixRef<'_> {
        MatrixRef { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// The same matrix for a shorter time, so that it can be handed to a call and used again after it.
    pub fn reborrow(&mut self) -> MatrixMut<'_> {
        MatrixMut { data: self.data, rows: self.rows, cols: self.cols, stride: self.stride }
    }

    /// The columns from `start` to `start + len`, same rows.
    ///
    /// # Panics
    /// When they leave the matrix, as a slice does.
    #[must_use]
    pub fn cols_at(self, start: usize, len: usize) -> Self {
        assert!(start <= self.cols && len <= self.cols - start, "columns {start}+{len} of {}", self.cols);
        let data = if self.rows == 0 { &mut [] } else { &mut self.data[start..] };
        Self { data, cols: len, rows: self.rows, stride: self.stride }
    }

    /// The first `rows` rows and the rest.
    ///
    /// # Panics
    /// When there are fewer than `rows` rows, as a slice does.
    #[must_use]
    pub fn split_rows(self, rows: usize) -> (Self, Self) {
        assert!(rows <= self.rows, "split at row {rows} of {}", self.rows);
        let at = (rows * self.stride).min(self.data.len());
        let (head, tail) = self.data.split_at_mut(at);
        let rest = self.rows - rows;
        (Self { data: head, rows, ..self }, Self { data: tail, rows: rest, cols: self.cols, stride: self.stride })
    }

    /// The floats from element (0, 0) on.
    pub(crate) fn data_mut(&mut self) -> &mut [f32] {
        self.data
    }
}
