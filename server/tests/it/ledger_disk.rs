//! A disk in memory whose power can be cut: what was synced stays, of the rest a random part.

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use redb::StorageBackend;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Length(usize),
}

struct State {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    steps: u64,
    cut_at: Option<u64>,
    cut: bool,
    honest_sync: bool,
}

/// Shared by the database and the test.
#[derive(Clone)]
pub(crate) struct Disk(Arc<Mutex<State>>);

impl std::fmt::Debug for Disk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// A disk holding `image`. With `honest_sync` false a sync reports success and keeps nothing: the negative control.
    pub(crate) fn new(image: Vec<u8>, honest_sync: bool) -> Self {
        let (live, durable) = (image.clone(), image);
        let pending = Vec::new();
        Self(Arc::new(Mutex::new(State { live, durable, pending, steps: 0, cut_at: None, cut: false, honest_sync })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Cuts the power at the `n`-th write, sync or change of length from now on.
    pub(crate) fn cut_after(&self, n: u64) {
        let mut state = self.state();
        state.cut_at = Some(state.steps + n);
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.state().cut
    }

    /// What the next start finds: the durable image and a random part of what was written since, in pieces of 512 bytes.
    pub(crate) fn after_power_cut(&self, seed: u64) -> Vec<u8> {
        let state = self.state();
        let mut random = StdRng::seed_from_u64(seed);
        let kept: u32 = random.random_range(0..=100);
        let mut image = state.durable.clone();
        for pending in &state.pending {
            match pending {
                Pending::Length(length) if random.random_range(0..100) < kept => image.resize(*length, 0),
                Pending::Length(_) => {}
                Pending::Write(offset, bytes) => {
                    for (piece, at) in bytes.chunks(512).zip((*offset..).step_by(512)) {
                        if random.random_range(0..100) < kept {
                            image.resize(image.len().max(at + piece.len()), 0);
                            image[at..at + piece.len()].copy_from_slice(piece);
                        }
                    }
                }
            }
        }
        image
    }
}

impl State {
    fn step(&mut self) -> Result<(), Error> {
        self.steps += 1;
        self.cut |= self.cut_at == Some(self.steps);
        if self.cut { Err(Error::other("power cut")) } else { Ok(()) }
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        Ok(self.state().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        let (state, offset) = (self.state(), usize::try_from(offset).unwrap());
        let source = state.live.get(offset..offset + out.len()).ok_or(Error::from(ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(source);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        let (mut state, len) = (self.state(), usize::try_from(len).unwrap());
        state.step()?;
        state.live.resize(len, 0);
        state.pending.push(Pending::Length(len));
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        let mut state = self.state();
        state.step()?;
        if state.honest_sync {
            state.durable = state.live.clone();
            state.pending.clear();
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        let (mut state, offset) = (self.state(), usize::try_from(offset).unwrap());
        state.step()?;
        state.live[offset..offset + data.len()].copy_from_slice(data);
        state.pending.push(Pending::Write(offset, data.to_vec()));
        Ok(())
    }
}
