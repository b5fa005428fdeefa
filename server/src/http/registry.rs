//! Open connections of one port: who may come in, who must go.
//!
//! At a cap a new connection is worth more than one that does nothing. The victim is, in this order: the connection that
//! has stalled longest without ever having completed a request (silent, dripping headers, or a body that does not come),
//! then the one that stalls in a later request, then the one that has been idle longest between two requests. A connection
//! whose request is being answered is never closed for room. So attackers who stall push each other out, and a client that
//! asks now and then keeps its place.

use crate::meters::ConnectionEnd;
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Victims found by one walk over the connections, used up by the next arrivals: the walk's cost is shared by that many.
const VICTIMS: usize = 64;

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Phase {
    /// Between two requests, or before the first.
    Idle = 0,
    /// A request has begun, its headers are not complete.
    Headers = 1,
    /// A request waits for bytes of its body.
    Body = 2,
    /// A request is being answered.
    Working = 3,
    /// Told to end.
    Closing = 4,
}

impl Phase {
    fn of(value: u8) -> Self {
        match value {
            0 => Self::Idle,
            1 => Self::Headers,
            2 => Self::Body,
            3 => Self::Working,
            _ => Self::Closing,
        }
    }
}

/// State of one connection, written by its task and read by the registry.
pub(super) struct Connection {
    phase: AtomicU8,
    since_ms: AtomicU64,
    /// Since when no byte could be written, plus one; 0 while bytes flow.
    blocked_ms: AtomicU64,
    served: AtomicBool,
    end: AtomicU8,
    close: Notify,
    epoch: Instant,
    id: u64,
    address: IpAddr,
}

impl Connection {
    fn now_ms(&self) -> u64 {
        millis(self.epoch.elapsed())
    }

    pub(super) fn phase(&self) -> Phase {
        Phase::of(self.phase.load(Ordering::Acquire))
    }

    /// No request has come yet.
    pub(super) fn is_new(&self) -> bool {
        !self.served.load(Ordering::Relaxed) && matches!(self.phase(), Phase::Idle | Phase::Headers)
    }

    /// Moves on if the phase is still `from`: a close that came first stands.
    fn shift(&self, from: Phase, to: Phase) -> bool {
        self.phase.compare_exchange(from as u8, to as u8, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    fn enter(&self, phase: Phase) {
        self.since_ms.store(self.now_ms(), Ordering::Relaxed);
        self.phase.store(phase as u8, Ordering::Release);
    }

    /// Bytes came in.
    pub(super) fn bytes_read(&self) {
        if self.shift(Phase::Idle, Phase::Headers) {
            self.since_ms.store(self.now_ms(), Ordering::Relaxed);
        }
    }

    /// Headers are complete.
    pub(super) fn request_begins(&self) {
        self.enter(Phase::Working);
    }

    /// The request waits for its body. The time still counts from the end of its headers.
    pub(super) fn body_awaited(&self) {
        self.shift(Phase::Working, Phase::Body);
    }

    /// Bytes of the body have come, or its end.
    pub(super) fn body_came(&self) {
        self.shift(Phase::Body, Phase::Working);
    }

    /// The answer is on its way.
    pub(super) fn request_ends(&self) {
        self.served.store(true, Ordering::Relaxed);
        self.enter(Phase::Idle);
    }

    /// A write did or did not move bytes.
    pub(super) fn wrote(&self, moved: bool) {
        if moved {
            self.blocked_ms.store(0, Ordering::Relaxed);
        } else if self.blocked_ms.load(Ordering::Relaxed) == 0 {
            self.blocked_ms.store(self.now_ms() + 1, Ordering::Relaxed);
        }
    }

    /// Resolves when the registry wants the connection closed.
    pub(super) async fn told_to_close(&self) -> ConnectionEnd {
        self.close.notified().await;
        use crate::meters::Label as _;
        let end = usize::from(self.end.load(Ordering::Acquire));
        ConnectionEnd::ALL.get(end).copied().unwrap_or(ConnectionEnd::Evicted)
    }

    /// Tells the task to close, unless a request has come whole meanwhile.
    fn close_idle(&self, end: ConnectionEnd) -> bool {
        let from = self.phase();
        if matches!(from, Phase::Idle | Phase::Headers | Phase::Body) && self.shift(from, Phase::Closing) {
            self.signal(end);
            return true;
        }
        false
    }

    fn signal(&self, end: ConnectionEnd) {
        // A label has far fewer than 256 values.
        self.end.store(end as u8, Ordering::Release);
        self.close.notify_one();
    }

    /// Smaller goes first; `None` for a connection at work.
    fn rank(&self) -> Option<(u8, u64)> {
        let since = self.since_ms.load(Ordering::Relaxed);
        match (self.phase(), self.served.load(Ordering::Relaxed)) {
            (Phase::Idle | Phase::Headers | Phase::Body, false) => Some((0, since)),
            (Phase::Headers | Phase::Body, true) => Some((1, since)),
            (Phase::Idle, true) => Some((2, since)),
            (Phase::Working | Phase::Closing, _) => None,
        }
    }
}

/// Caps and times of a port.
#[derive(Clone, Copy, Debug)]
pub(super) struct Caps {
    pub(super) connections: usize,
    pub(super) per_address: usize,
    pub(super) header: Duration,
    pub(super) keep_alive: Duration,
    pub(super) write: Duration,
}

#[derive(Default)]
struct Table {
    by_id: HashMap<u64, Arc<Connection>>,
    by_address: HashMap<IpAddr, HashSet<u64>>,
    victims: VecDeque<u64>,
    next_id: u64,
}

/// All open connections of a port.
pub(super) struct Registry {
    table: Mutex<Table>,
    caps: Caps,
    epoch: Instant,
    empty: Notify,
}

/// Why a new connection is turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// The port is full of connections at work.
    Port,
    /// The address has its share, all at work.
    Address,
}

/// A new connection's place, freed on drop.
pub(super) struct Place {
    registry: Arc<Registry>,
    pub(super) connection: Arc<Connection>,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut table = self.registry.table.lock();
        table.remove(self.connection.id);
        if table.by_id.is_empty() {
            self.registry.empty.notify_waiters();
        }
    }
}

impl Table {
    fn remove(&mut self, id: u64) {
        if let Some(connection) = self.by_id.remove(&id)
            && let Some(ids) = self.by_address.get_mut(&connection.address)
        {
            ids.remove(&id);
            if ids.is_empty() {
                self.by_address.remove(&connection.address);
            }
        }
    }

    /// Closes the most worthless connection of the port; false if all are at work.
    fn evict(&mut self) -> bool {
        for refill in [false, true] {
            if refill {
                self.victims = worst(self.by_id.values());
            }
            while let Some(id) = self.victims.pop_front() {
                if self.by_id.get(&id).is_some_and(|connection| connection.close_idle(ConnectionEnd::Evicted)) {
                    self.remove(id);
                    return true;
                }
            }
        }
        false
    }

    /// The same among the connections of one address.
    fn evict_of(&mut self, address: IpAddr) -> bool {
        let Some(ids) = self.by_address.get(&address) else { return false };
        for id in worst(ids.iter().filter_map(|id| self.by_id.get(id))) {
            if self.by_id.get(&id).is_some_and(|connection| connection.close_idle(ConnectionEnd::Evicted)) {
                self.remove(id);
                return true;
            }
        }
        false
    }
}

/// The [`VICTIMS`] connections that go first, in order.
fn worst<'a>(connections: impl Iterator<Item = &'a Arc<Connection>>) -> VecDeque<u64> {
    let mut ranked: Vec<_> = connections.filter_map(|c| c.rank().map(|rank| (rank, c.id))).collect();
    if ranked.len() > VICTIMS {
        ranked.select_nth_unstable(VICTIMS - 1);
        ranked.truncate(VICTIMS);
    }
    ranked.sort_unstable();
    ranked.into_iter().map(|(_, id)| id).collect()
}

impl Registry {
    pub(super) fn new(caps: Caps) -> Arc<Self> {
        Arc::new(Self { table: Mutex::default(), caps, epoch: Instant::now(), empty: Notify::new() })
    }

    /// A place for a connection from `address`, made by closing another if need be.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr) -> Result<Place, Refused> {
        let address = group(address);
        let mut table = self.table.lock();
        let of_address = table.by_address.get(&address).map_or(0, HashSet::len);
        if of_address >= self.caps.per_address && !table.evict_of(address) {
            return Err(Refused::Address);
        }
        if table.by_id.len() >= self.caps.connections && !table.evict() {
            return Err(Refused::Port);
        }
        let id = table.next_id;
        table.next_id += 1;
        let connection = Arc::new(Connection {
            phase: AtomicU8::new(Phase::Idle as u8),
            since_ms: AtomicU64::new(millis(self.epoch.elapsed())),
            blocked_ms: AtomicU64::new(0),
            served: AtomicBool::new(false),
            end: AtomicU8::new(0),
            close: Notify::new(),
            epoch: self.epoch,
            id,
            address,
        });
        table.by_id.insert(id, connection.clone());
        table.by_address.entry(address).or_default().insert(id);
        Ok(Place { registry: self.clone(), connection })
    }

    /// Makes room when the system has no file descriptor left.
    pub(super) fn evict_one(&self) -> bool {
        self.table.lock().evict()
    }

    /// Closes what has exceeded its time. Call a few times in the shortest of the times.
    pub(super) fn sweep(&self) {
        let now = millis(self.epoch.elapsed());
        let over = |since: u64, limit: Duration| now.saturating_sub(since) > millis(limit);
        let table = self.table.lock();
        for connection in table.by_id.values() {
            let since = connection.since_ms.load(Ordering::Relaxed);
            let blocked = connection.blocked_ms.load(Ordering::Relaxed);
            if blocked > 0 && over(blocked - 1, self.caps.write) {
                connection.signal(ConnectionEnd::WriteTimeout);
                continue;
            }
            match connection.phase() {
                Phase::Headers if over(since, self.caps.header) => {
                    connection.close_idle(ConnectionEnd::HeaderTimeout);
                }
                Phase::Idle if over(since, self.caps.keep_alive) => {
                    connection.close_idle(ConnectionEnd::KeepAliveTimeout);
                }
                Phase::Idle | Phase::Headers | Phase::Body | Phase::Working | Phase::Closing => {}
            }
        }
    }

    /// Resolves once no connection is open.
    pub(super) async fn emptied(&self) {
        loop {
            let empty = self.empty.notified();
            if self.table.lock().by_id.is_empty() {
                return;
            }
            empty.await;
        }
    }

    /// Ends every connection, whatever it does.
    pub(super) fn end_all(&self) -> usize {
        let table = self.table.lock();
        for connection in table.by_id.values() {
            connection.signal(ConnectionEnd::Drained);
        }
        table.by_id.len()
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.table.lock().by_id.len()
    }
}

/// One customer of an IPv6 network usually has a whole /64.
fn group(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
        v4 @ IpAddr::V4(_) => v4,
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(connections: usize, per_address: usize) -> Arc<Registry> {
        let second = Duration::from_secs(1);
        Registry::new(Caps { connections, per_address, header: second, keep_alive: second, write: second })
    }

    fn ip(last: u8) -> IpAddr {
        IpAddr::from([127, 0, 0, last])
    }

    #[test]
    fn a_new_connection_takes_the_place_of_the_one_that_never_asked() {
        let registry = registry(3, 3);
        let served = registry.admit(ip(1)).unwrap();
        served.connection.request_begins();
        served.connection.request_ends();
        let silent = registry.admit(ip(2)).unwrap();
        let working = registry.admit(ip(3)).unwrap();
        working.connection.request_begins();
        let next = registry.admit(ip(4)).unwrap();
        assert_eq!(silent.connection.phase(), Phase::Closing);
        assert_eq!(served.connection.phase(), Phase::Idle);
        assert_eq!(registry.len(), 3);
        next.connection.request_begins();
        // Now the one between two requests is the only one that is not at work.
        let last = registry.admit(ip(5)).unwrap();
        assert_eq!(served.connection.phase(), Phase::Closing);
        last.connection.request_begins();
        assert_eq!(registry.admit(ip(6)).err(), Some(Refused::Port));
    }

    #[test]
    fn an_address_at_its_cap_pays_itself() {
        let registry = registry(10, 2);
        let other = registry.admit(ip(9)).unwrap();
        let first = registry.admit(ip(1)).unwrap();
        let second = registry.admit(ip(1)).unwrap();
        let third = registry.admit(ip(1)).unwrap();
        assert_eq!(first.connection.phase(), Phase::Closing);
        assert_eq!(other.connection.phase(), Phase::Idle);
        second.connection.request_begins();
        third.connection.request_begins();
        assert_eq!(registry.admit(ip(1)).err(), Some(Refused::Address));
        drop(second);
        assert!(registry.admit(ip(1)).is_ok());
    }

    #[test]
    fn one_ipv6_network_is_one_address() {
        let a: IpAddr = "2001:db8:0:1::1".parse().unwrap();
        let b: IpAddr = "2001:db8:0:1:ffff::2".parse().unwrap();
        let c: IpAddr = "2001:db8:0:2::1".parse().unwrap();
        assert_eq!(group(a), group(b));
        assert_ne!(group(a), group(c));
        assert_eq!(group("::ffff:127.0.0.1".parse().unwrap()), ip(1));
    }
}
