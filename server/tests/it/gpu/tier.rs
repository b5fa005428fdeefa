//! Users whom the device's cache has no room for: in host memory where that pays, behind the device's handle.

use crate::batch_spy::{EVER, ask, config, history, quick};
use arc_swap::ArcSwap;
use longbow::batch::{Device, DeviceHandle, DeviceOptions, WarmUp};
use longbow_kernels::cuda::CudaEngine;
use longbow_model::cuda::CudaEncoder;
use longbow_model::{
    Advance, Config, EncodeError, Encoded, Encoder, Finish, HostTier, ItemTable, Model, Score, Scores, Seed, UserState,
    Version,
};
use std::sync::Arc;

/// Events of each user: two pages.
const EVENTS: usize = 100;
/// Bytes of a page of the model below: 2 layers, K and V, 64 rows of 128 bf16, and the rows' times.
const PAGE: usize = 2 * 2 * 64 * 128 * 2 + 512;

/// A GPU whose copies are as fast as the test says.
struct Paced {
    inner: CudaEncoder,
    rate: Option<f64>,
}

impl Encoder for Paced {
    fn config(&self) -> &Config {
        self.inner.config()
    }
    fn version(&self) -> Version {
        self.inner.version()
    }
    fn new_state(&self) -> UserState {
        self.inner.new_state()
    }
    fn advance(&mut self, jobs: &mut [Advance<'_>]) -> Result<(), EncodeError> {
        self.inner.advance(jobs)
    }
    fn finish(&mut self, jobs: &[Finish<'_>]) -> Result<Vec<Encoded>, EncodeError> {
        self.inner.finish(jobs)
    }
    fn score(&mut self, jobs: &[Score<'_>]) -> Result<Vec<Scores>, EncodeError> {
        self.inner.score(jobs)
    }
    fn host_tier(&self) -> Option<HostTier> {
        let tier = self.inner.host_tier()?;
        Some(HostTier { rate: self.rate.unwrap_or(tier.rate), ..tier })
    }
    fn park(&mut self, state: &mut UserState) -> bool {
        self.inner.park(state)
    }
    fn unpark(&mut self, state: &mut UserState) -> Result<(), EncodeError> {
        self.inner.unpark(state)
    }
}

/// A device whose cache holds one user, with so many bytes of host memory beside it; none where there is no GPU.
async fn device(host: usize, rate: Option<f64>) -> Option<(Device, DeviceHandle)> {
    let Ok(engine) = CudaEngine::new(0) else {
        eprintln!("skipped: no GPU and no stand-in");
        return None;
    };
    let config = Config { max_sequence_len: 120, ..config() };
    let model = Arc::new(Model::seeded(config, &Seed { seed: 7, content_dim: None, head_hidden: 16 }).unwrap());
    let items = Arc::new(ArcSwap::from_pointee(ItemTable::new(&model)));
    let mut inner = CudaEncoder::new(model, Arc::new(engine), 16 << 20).unwrap();
    inner.set_host_tier(host).unwrap();
    let warm_up = WarmUp { lengths: vec![1, 16, 64], candidates: vec![1, 8, 16], ..quick().warm_up };
    let options = DeviceOptions { cache_bytes_max: 3 * PAGE, warm_up, ..DeviceOptions::default() };
    let encoder = Box::new(Paced { inner, rate });
    let (device, handle) = Device::start(encoder, items, options, Arc::default()).unwrap();
    handle.ready().await.unwrap();
    Some((device, handle))
}

/// Users that come one after the other: rows found again at the last visit, and what the device counted.
async fn visits(handle: &DeviceHandle, users: &[u128]) -> (usize, Vec<f32>) {
    let mut last = (0, Vec::new());
    for &user in users {
        let window = history(u32::try_from(user).unwrap(), EVENTS);
        let reply = handle.encode(ask(user, &window, EVER)).await.unwrap();
        last = (reply.rows_reused, reply.encoded.query().unwrap().to_vec());
    }
    last
}

#[tokio::test]
async fn a_user_without_room_on_the_device_comes_back_from_host_memory() {
    let Some((_device, handle)) = device(8 * PAGE, None).await else { return };
    let (found, first) = visits(&handle, &[1]).await;
    assert_eq!(found, 0);
    let (found, again) = visits(&handle, &[2, 1]).await;
    assert_eq!((found, &again), (EVENTS - 1, &first), "the state is whole, bit by bit");
    let stats = handle.stats();
    // A visit of user 2 puts user 1 out, and the one of user 1 puts user 2 out.
    assert_eq!((stats.host_parked.get(), stats.host_hits.get()), (2, 1));
    assert_eq!(stats.host_reload_bytes.get(), 2 * PAGE as u64);
    assert_eq!(stats.host_evicted.get(), 0);
    // More users than both tiers hold: three in host memory, and the oldest of them go.
    let (found, _) = visits(&handle, &[3, 4, 5, 6, 1]).await;
    assert_eq!(found, 0, "user 1 was the oldest");
    let stats = handle.stats();
    assert!(stats.host_evicted.get() > 0 && stats.host_bytes.get() <= 8 * PAGE as u64);
}

#[tokio::test]
async fn nothing_is_parked_where_computing_anew_is_quicker_or_nothing_is_set_aside() {
    for (host, rate) in [(8 * PAGE, Some(1.0)), (0, None)] {
        let Some((_device, handle)) = device(host, rate).await else { return };
        let (found, _) = visits(&handle, &[1, 2, 1]).await;
        assert_eq!(found, 0, "{host} bytes at {rate:?} a second");
        let stats = handle.stats();
        assert_eq!((stats.host_parked.get(), stats.host_hits.get(), stats.host_bytes.get()), (0, 0, 0));
    }
}
