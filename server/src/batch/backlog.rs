//! What the device has promised: the work of the requests in hand, and when each part of it is due.
//!
//! A request asks the device twice, for an encode and for scores, and each part has its own deadline. The device runs the earliest
//! deadline first, so a part is in time if everything that is due before it, and itself, fits between now and its deadline (the
//! demand criterion: Baruah, Rosier and Howell, "Algorithms and complexity concerning the preemptive scheduling of periodic, real-time
//! tasks on one processor", 1990). An arriving request is promised only what breaks no promise: else it gets a shorter history
//! ([`super::ladder`]), or is refused at once, while its caller still has time to ask elsewhere.
//!
//! [`Backlog`] is pure: times and costs are passed in. [`Ticket`] is a request's place in it, given back when it is dropped.

use super::cost::{CostModel, Work};
use super::ladder::{Ask, LadderLimits, Room, Step};
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a request will ask of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Candidates it will have scored; 0 if none.
    pub candidates: usize,
    /// When its encode is due.
    pub encode_by: Instant,
    /// When its scores are due; not before the encode.
    pub score_by: Instant,
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPlace {
    /// Not even an idle device would be done in time.
    DeadlineTooNear,
    /// It would be in time if it were not for those before it.
    Crowded,
}

/// The two parts of a request, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Encode,
    Score,
}

/// When it is due, whose it is, and which part.
type Key = (Instant, u64, Part);

/// The promises of one device.
#[derive(Debug)]
pub struct Backlog {
    /// Predicted time of each.
    promises: BTreeMap<Key, Duration>,
    /// The predicted end of what runs now.
    busy_until: Option<Instant>,
    cost: CostModel,
    ladder: LadderLimits,
    /// Kept back from every deadline for carrying the reply.
    margin: Duration,
    next_id: u64,
}

impl Backlog {
    /// Nothing promised yet. Promises fill at most `ladder.full_share` of the time to a deadline: predictions err.
    #[must_use]
    pub fn new(ladder: LadderLimits, margin: Duration) -> Self {
        let (promises, cost) = (BTreeMap::new(), CostModel::default());
        Self { promises, busy_until: None, cost, ladder, margin, next_id: 0 }
    }

    /// Costs as they are known now.
    pub fn learn(&mut self, cost: CostModel) {
        self.cost = cost;
    }

    /// Parts promised and not begun.
    #[must_use]
    pub fn promised(&self) -> usize {
        self.promises.len()
    }

    /// A place for `claim`, at the cheapest that its history may turn out to cost: `events` long and resident.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn admit(&mut self, claim: &Claim, events: usize, now: Instant) -> Result<u64, NoPlace> {
        let id = self.next_id;
        self.next_id += 1;
        self.grow(id, claim, events, now).map(|()| id)
    }

    /// The same for a request that has a place already, once its history is known. It keeps its place if it is refused.
    ///
    /// # Errors
    /// [`NoPlace`].
    pub fn grow(&mut self, id: u64, claim: &Claim, events: usize, now: Instant) -> Result<(), NoPlace> {
        let ask = |room| Ask {
            len: events,
            cached: events.saturating_sub(1),
            slack: self.slack(claim.encode_by, now),
            candidates: claim.candidates,
            room,
        };
        let len = match self.ladder.choose(ask(self.room(id, claim, now)), &self.cost) {
            Step::Full => events,
            Step::Stale { len } | Step::Recent { len } => len,
            Step::Refuse => {
                let idle = Room { encode: self.share(claim.encode_by, now), whole: self.share(claim.score_by, now) };
                let alone = self.ladder.choose(ask(idle), &self.cost);
                return Err(if alone == Step::Refuse { NoPlace::DeadlineTooNear } else { NoPlace::Crowded });
            }
        };
        let encode = if len == events { Work::finish(len) } else { Work::encode(0, len) };
        self.promise(id, claim, encode, Work::score(claim.candidates, len));
        Ok(())
    }

    /// How much more the request `id` may be given: it and every other promise that can be kept is kept then. One walk over all
    /// promises: a few microseconds for the hundreds that fill the longest deadlines.
    #[must_use]
    pub fn room(&self, id: u64, claim: &Claim, now: Instant) -> Room {
        let mut total = self.busy_until.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        let (mut encode, mut whole) = (None, None);
        let left = |due, total| self.share(due, now).saturating_sub(total);
        for (&(by, of, _), &takes) in &self.promises {
            if by > claim.encode_by {
                encode.get_or_insert_with(|| left(claim.encode_by, total));
            }
            if by > claim.score_by {
                whole.get_or_insert_with(|| left(claim.score_by, total));
            }
            if of == id {
                continue;
            }
            total += takes;
            // A promise that is lost anyway holds nobody up.
            if encode.is_some() && total <= self.slack(by, now) {
                let least = |room: Duration| room.min(left(by, total));
                (encode, whole) = (encode.map(least), whole.map(least));
            }
        }
        let whole = whole.unwrap_or_else(|| left(claim.score_by, total));
        let encode = encode.unwrap_or_else(|| left(claim.encode_by, total));
        Room { encode: encode.min(whole), whole }
    }

    fn slack(&self, due: Instant, now: Instant) -> Duration {
        due.saturating_duration_since(now).saturating_sub(self.margin)
    }

    fn share(&self, due: Instant, now: Instant) -> Duration {
        self.slack(due, now).mul_f64(self.ladder.full_share)
    }

    fn promise(&mut self, id: u64, claim: &Claim, encode: Work, score: Work) {
        self.promises.insert((claim.encode_by, id, Part::Encode), self.cost.marginal(encode));
        if claim.candidates > 0 {
            self.promises.insert((claim.score_by, id, Part::Score), self.cost.marginal(score));
        }
    }

    fn settle(&mut self, id: u64, claim: &Claim, part: Part) {
        let by = if part == Part::Encode { claim.encode_by } else { claim.score_by };
        self.promises.remove(&(by, id, part));
    }
}

/// A request's place among the promises of a device, given back on drop.
#[derive(Debug)]
pub struct Ticket {
    backlog: Arc<Mutex<Backlog>>,
    id: u64,
    claim: Claim,
}

impl Ticket {
    pub(super) fn take(backlog: &Arc<Mutex<Backlog>>, claim: Claim, now: Instant) -> Result<Self, NoPlace> {
        let id = backlog.lock().admit(&claim, 0, now)?;
        Ok(Self { backlog: Arc::clone(backlog), id, claim })
    }

    /// The history is known now, not yet what of it is resident.
    pub(super) fn grow(&self, events: usize, now: Instant) -> Result<(), NoPlace> {
        self.backlog.lock().grow(self.id, &self.claim, events, now)
    }

    /// The candidates are known now.
    pub(super) fn scores(&self, work: Work) {
        let mut backlog = self.backlog.lock();
        let takes = backlog.cost.marginal(work);
        backlog.promises.entry((self.claim.score_by, self.id, Part::Score)).and_modify(|promised| *promised = takes);
    }

    /// Candidates that it will have scored, and the work that it may be given.
    pub(super) fn room(&self, now: Instant) -> (usize, Room) {
        (self.claim.candidates, self.backlog.lock().room(self.id, &self.claim, now))
    }

    /// The form of the encode is known now: so much is left of it, and scores will see so many events.
    pub(super) fn sized(&self, encode: Work, events: usize) {
        self.backlog.lock().promise(self.id, &self.claim, encode, Work::score(self.claim.candidates, events));
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut backlog = self.backlog.lock();
        backlog.settle(self.id, &self.claim, Part::Encode);
        backlog.settle(self.id, &self.claim, Part::Score);
    }
}

/// What begins to run, and until when it probably runs: no promise any more, but in the way of all that are.
pub(super) fn begin<'a>(backlog: &Mutex<Backlog>, encodes: impl Iterator<Item = (&'a Ticket, bool)>, until: Instant) {
    let mut backlog = backlog.lock();
    backlog.busy_until = Some(until);
    for (ticket, scores) in encodes {
        backlog.settle(ticket.id, &ticket.claim, if scores { Part::Score } else { Part::Encode });
    }
}

/// Nothing runs.
pub(super) fn end(backlog: &Mutex<Backlog>, cost: CostModel) {
    let mut backlog = backlog.lock();
    backlog.busy_until = None;
    backlog.cost = cost;
}

#[cfg(test)]
mod tests;
