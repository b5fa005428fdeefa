//! Changes that wait for a second call.

use crate::http::respond::Fault;
use hyper::StatusCode;
use parking_lot::Mutex;
use rand::TryRng as _;
use rand::rngs::SysRng;
use serde_json::{Map, Value};
use std::collections::VecDeque;

/// How long a change waits.
const SECONDS: i64 = 300;
/// Changes waiting at most; the oldest go first.
const WAITING_MAX: usize = 1_000;

/// One change.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    token: String,
    caller: String,
    tool: String,
    expires_at: i64,
    /// The arguments of the first call.
    pub(super) arguments: Map<String, Value>,
    /// The record as it stood then.
    pub(super) before: Value,
}

/// Changes described but not yet made.
#[derive(Debug, Default)]
pub(in crate::admin) struct Confirmations(Mutex<VecDeque<Waiting>>);

impl Confirmations {
    /// Keeps a change until it is confirmed; gives the confirmation and the second at which it expires.
    ///
    /// # Errors
    /// 503 if the system has no randomness.
    pub(super) fn ask(
        &self,
        (caller, tool): (&str, &str),
        arguments: Map<String, Value>,
        before: Value,
        now: i64,
    ) -> Result<(String, i64), Fault> {
        let mut bytes = [0u8; 16];
        SysRng.try_fill_bytes(&mut bytes).map_err(|error| Fault::unavailable(error.to_string(), 1))?;
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expires_at = now + SECONDS;
        let mut waiting = self.0.lock();
        waiting.retain(|change| change.expires_at > now);
        if waiting.len() >= WAITING_MAX {
            waiting.pop_front();
        }
        let (caller, tool) = (caller.to_owned(), tool.to_owned());
        waiting.push_back(Waiting { token: token.clone(), caller, tool, expires_at, arguments, before });
        Ok((token, expires_at))
    }

    /// Takes a change out: it can be confirmed once, by whom it was described to, for the tool it came from. `sent` are the arguments
    /// of the second call: what it says beside the confirmation must be what was described.
    ///
    /// # Errors
    /// 409 for a confirmation that is unknown, used, expired or another's, or of another change.
    pub(super) fn take(
        &self,
        (caller, tool): (&str, &str),
        sent: &Map<String, Value>,
        now: i64,
    ) -> Result<Waiting, Fault> {
        let token = sent.get("confirmation").and_then(Value::as_str).unwrap_or_default();
        let mut waiting = self.0.lock();
        waiting.retain(|change| change.expires_at > now);
        let fits = |change: &Waiting| change.token == token && change.caller == caller && change.tool == tool;
        let at = waiting.iter().position(fits);
        if let Some(change) = at.and_then(|at| waiting.get(at))
            && let Some((name, _)) =
                sent.iter().find(|(name, value)| *name != "confirmation" && change.arguments.get(*name) != Some(value))
        {
            let message = format!("`{name}` differs from what was described; send the confirmation alone");
            return Err(Fault::new(StatusCode::CONFLICT, "not_confirmed", message));
        }
        at.and_then(|at| waiting.remove(at)).ok_or_else(|| {
            let message =
                "this confirmation is unknown, used, or older than five minutes; describe the change again without one";
            Fault::new(StatusCode::CONFLICT, "not_confirmed", message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_works_once_for_its_own_caller_tool_and_time() {
        let all = Confirmations::default();
        let ask = |now| all.ask(("ann", "change_plan"), Map::new(), Value::Null, now).unwrap().0;
        let sent = |token: &str| Map::from_iter([("confirmation".to_owned(), Value::from(token))]);
        let token = sent(&ask(100));
        assert!(all.take(("bob", "change_plan"), &token, 101).is_err());
        assert!(all.take(("ann", "create_plan"), &token, 101).is_err());
        let mut other = token.clone();
        other.insert("plan".to_owned(), Value::from("another"));
        assert!(all.take(("ann", "change_plan"), &other, 101).is_err(), "not what was described");
        assert!(all.take(("ann", "change_plan"), &token, 101).is_ok());
        assert!(all.take(("ann", "change_plan"), &token, 101).is_err(), "once");
        let token = sent(&ask(200));
        assert!(all.take(("ann", "change_plan"), &token, 200 + SECONDS).is_err(), "expired");
        for _ in 0..2 * WAITING_MAX {
            ask(300);
        }
        assert_eq!(all.0.lock().len(), WAITING_MAX);
    }
}
