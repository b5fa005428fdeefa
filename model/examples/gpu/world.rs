//! Random inputs of attention on the device, with a copy on the host.

use longbow_kernels::cuda::{
    Attention, Bias, Buffer, CudaEngine, CudaError, Form, HeadShape, PAGE_ROWS, PageStore, Plan, Rows, TimeBias, Work,
    bf16, from_bf16, time_bias,
};
use longbow_kernels::{BUCKETS, time_bucket};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Numbers that are drawn once and used over and over where only time counts.
const DRAWN: usize = 1 << 20;

/// What to run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    pub(crate) jobs: usize,
    /// Keys of the longest job; the others are shorter where `ragged`.
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) head_dim: usize,
    pub(crate) causal: bool,
    pub(crate) bias: bool,
    pub(crate) ragged: bool,
    /// Query rows of a job that is not causal.
    pub(crate) candidates: usize,
}

pub(crate) struct World {
    pub(crate) shape: Shape,
    heads: HeadShape,
    store: PageStore,
    packed: Buffer<u16>,
    next_times: Buffer<i64>,
    tables: Buffer<i32>,
    pos_w: Buffer<f32>,
    time: Buffer<TimeBias>,
    work: Buffer<Work>,
    pub(crate) out: Buffer<f32>,
    jobs: Vec<Rows>,
    plan: Plan,
    host: Host,
}

/// Copies for the comparison.
struct Host {
    drawn: Vec<u16>,
    times: Vec<i64>,
    next: Vec<i64>,
    pages: Vec<i32>,
    pos_w: Vec<f32>,
    ts_w: Vec<f32>,
}

fn int(x: usize) -> i32 {
    i32::try_from(x).unwrap_or(i32::MAX)
}

/// Writes the drawn numbers over a whole buffer: number i is `drawn[i % DRAWN]`.
fn spread(engine: &CudaEngine, to: &Buffer<u16>, drawn: &[u16]) -> Result<(), CudaError> {
    for at in (0..to.len()).step_by(DRAWN) {
        engine.device().upload_slice(to, at, &drawn[..DRAWN.min(to.len() - at)])?;
    }
    Ok(())
}

impl World {
    pub(crate) fn new(engine: &CudaEngine, shape: Shape, seed: u64) -> Result<Self, CudaError> {
        let mut rng = StdRng::seed_from_u64(seed);
        let device = engine.device();
        let heads = HeadShape::new(shape.heads, shape.head_dim)?;
        let (mut jobs, mut first, mut table) = (Vec::new(), 0, 0);
        for job in 0..shape.jobs {
            let keys = if shape.ragged && job > 0 { rng.random_range(1..=shape.keys) } else { shape.keys };
            let count = if shape.causal { keys } else { shape.candidates };
            let position = if shape.causal { 0 } else { keys };
            jobs.push(Rows { first, count, position, keys, table, causal: shape.causal });
            first += count;
            table += keys.div_ceil(PAGE_ROWS);
        }
        let store = PageStore::new(device, heads, 1, table + 1)?;
        let packed = device.alloc::<u16>(first * 4 * heads.width())?;
        let drawn: Vec<u16> = (0..DRAWN).map(|_| bf16(rng.random_range(-1.0_f32..1.0))).collect();
        spread(engine, store.numbers(), &drawn)?;
        spread(engine, &packed, &drawn)?;
        let max_len = shape.keys + 1;
        let mut host = Host {
            drawn,
            times: vec![0; (table + 1) * PAGE_ROWS],
            next: Vec::new(),
            // Pages in reverse: a table that is not the identity.
            pages: (0..table).rev().map(int).collect(),
            pos_w: (0..2 * max_len - 1).map(|_| rng.random_range(-1.0..1.0)).collect(),
            ts_w: (0..=BUCKETS).map(|_| rng.random_range(-1.0..1.0)).collect(),
        };
        for job in &jobs {
            host.times_of(job, &mut rng);
        }
        let upload_i64 = |data: &[i64]| {
            let to = device.alloc(data.len())?;
            device.upload_slice(&to, 0, data).map(|()| to)
        };
        device.upload_slice(store.times_buffer(), 0, &host.times)?;
        let plan = Plan::new(&jobs, heads.groups(), false);
        let (tables, work) = (device.alloc(table)?, device.alloc(plan.work.len())?);
        device.upload_slice(&tables, 0, &host.pages)?;
        device.upload_slice(&work, 0, &plan.work)?;
        let (pos_w, time) = (device.alloc(host.pos_w.len())?, device.alloc(1)?);
        device.upload_slice(&pos_w, 0, &host.pos_w.iter().map(|w| w / 2.0).collect::<Vec<_>>())?;
        device.upload_slice(&time, 0, &[time_bias(&host.ts_w)])?;
        let next_times = upload_i64(&host.next)?;
        let out = device.alloc(plan.sum_rows * heads.width())?;
        Ok(Self { shape, heads, store, packed, next_times, tables, pos_w, time, work, out, jobs, plan, host })
    }

    fn scale(&self) -> f32 {
        1.0 / (self.shape.keys + 1) as f32
    }

    /// Runs attention once.
    pub(crate) fn start(&self, engine: &CudaEngine, form: Form) -> Result<(), CudaError> {
        let bias = Bias { pos_w: self.pos_w.region(), time: self.time.region(), max_len: self.shape.keys + 1 };
        engine.attend(&Attention {
            work: self.work.region(),
            packed: self.packed.region(),
            next_times: self.next_times.region(),
            tables: self.tables.region(),
            pages: &self.store,
            layer: 0,
            bias: self.shape.bias.then_some(bias),
            out: self.out.region(),
            alpha: 1.0,
            scale: self.scale(),
            causal: self.shape.causal,
            form,
        })
    }

    /// Multiplications and additions of all rows, counted as the public figures count them.
    pub(crate) fn flops(&self) -> f64 {
        let pairs: f64 = self
            .jobs
            .iter()
            .map(|job| if job.causal { job.keys as f64 * job.keys as f64 / 2.0 } else { (job.count * job.keys) as f64 })
            .sum();
        4.0 * pairs * (self.shape.heads * self.shape.head_dim) as f64
    }

    /// Largest error of `samples` rows against f64, that of the plain computation in bf16, and whether every sum was written.
    pub(crate) fn errors(&self, engine: &CudaEngine, samples: usize, seed: u64) -> Result<(f64, f64), CudaError> {
        let device = engine.device();
        let mut pinned = device.pinned::<f32>(self.out.len())?;
        device.download(&self.out, &mut pinned, self.out.len())?;
        device.synchronize()?;
        let out = pinned.as_slice();
        let (mut found, mut plain) = (0.0_f64, 0.0_f64);
        if out.iter().any(|x| x.is_nan()) {
            return Ok((f64::INFINITY, 0.0));
        }
        let mut rng = StdRng::seed_from_u64(seed);
        for sample in 0..samples {
            let job = &self.jobs[sample % self.jobs.len()];
            // The first and the last rows are always among them.
            let row = match sample / self.jobs.len() {
                0 => job.count - 1,
                1 => 0,
                _ => rng.random_range(0..job.count),
            };
            for head in 0..self.shape.heads {
                self.compare(out, job, (row, head), (&mut found, &mut plain));
            }
        }
        Ok((found, plain))
    }

    fn number(&self, at: usize) -> f32 {
        from_bf16(self.host.drawn[at % DRAWN])
    }

    fn compare(&self, out: &[f32], job: &Rows, (row, head): (usize, usize), (found, plain): (&mut f64, &mut f64)) {
        let (hd, width) = (self.heads.head_dim, self.heads.width());
        let round = |x: f32| from_bf16(bf16(x));
        let position = if job.causal { row } else { job.keys };
        let keys = if job.causal { row + 1 } else { job.keys };
        let q = (job.first + row) * 4 * width + 2 * width + head * hd;
        let (mut exact, mut rough) = (vec![0.0_f64; hd], vec![0.0_f32; hd]);
        for key in 0..keys {
            let page = self.host.pages[job.table + key / PAGE_ROWS] as usize;
            let k = page * 2 * PAGE_ROWS * width + (head * PAGE_ROWS + key % PAGE_ROWS) * hd;
            let v = k + PAGE_ROWS * width;
            let dot: f64 = (0..hd).map(|c| f64::from(self.number(q + c)) * f64::from(self.number(k + c))).sum();
            let mut bias = 0.0_f32;
            if self.shape.bias {
                let time = self.host.times[page * PAGE_ROWS + key % PAGE_ROWS];
                bias = self.host.pos_w[self.shape.keys + key - position]
                    + self.host.ts_w[time_bucket(self.host.next[job.first + row] - time)];
            }
            let score = dot + f64::from(bias);
            let weight = score / (1.0 + (-score).exp());
            let coarse = round(round(dot as f32) + round(bias));
            let coarse = round(coarse / (1.0 + (-coarse).exp()));
            for c in 0..hd {
                exact[c] += weight * f64::from(self.number(v + c));
                rough[c] += coarse * self.number(v + c);
            }
        }
        let sums = self.plan.sums[job.first + row];
        for c in 0..hd {
            let at = |range: i32| (sums.first + range * sums.stride) as usize * width + head * hd + c;
            let got: f64 = (0..sums.ranges).map(|range| f64::from(out[at(range)])).sum();
            let want = exact[c] * f64::from(self.scale());
            *found = found.max((got - want).abs());
            *plain = plain.max((f64::from(round(rough[c] * self.scale())) - want).abs());
        }
    }
}

impl Host {
    fn times_of(&mut self, job: &Rows, rng: &mut StdRng) {
        let mut time = 1_700_000_000_i64;
        let mut all = Vec::new();
        for key in 0..job.keys {
            // Bursts, pauses, and a step back now and then.
            let step = [0, 1, 30, 4000, 90_000][rng.random_range(0..5)];
            time += if rng.random_range(0..50) == 0 { -step } else { rng.random_range(0..=step) };
            let page = self.pages[job.table + key / PAGE_ROWS] as usize;
            self.times[page * PAGE_ROWS + key % PAGE_ROWS] = time;
            all.push(time);
        }
        let asked = time + 60;
        let next = |row: usize| if job.causal { all.get(row + 1).copied().unwrap_or(asked) } else { asked };
        self.next.extend((0..job.count).map(next));
    }
}
