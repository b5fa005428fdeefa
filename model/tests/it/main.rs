//! Tests of the model crate through its public face.

mod cache;
mod encoder;
mod golden;
mod items;
mod load;
mod seeded;
mod state;
mod support;
