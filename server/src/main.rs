//! longbow
fn main() {}
