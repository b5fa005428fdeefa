//! Tests of the whole: its structure.

mod structure;
