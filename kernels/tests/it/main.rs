//! One integration binary: every instruction set of this machine against the f64 reference, and what must hold bit for bit.

mod agreement;
mod dense;
mod exactness;
mod refusal;
mod world;
