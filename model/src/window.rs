//! The part of a history that the model sees.

use crate::config::Config;
use crate::encoder::EncodeError;
use crate::items::ItemTable;

/// Times are held within this many seconds of 1970, so that differences cannot overflow.
pub(crate) const TIME_MAX: i64 = 1 << 53;

/// Events of one user, oldest first, at most `max_sequence_len`. The three lists are equally long.
#[derive(Debug, Clone, Copy, Default)]
pub struct Window<'a> {
    /// Item slots; never 0.
    pub items: &'a [u32],
    /// Actions; looked at only where the model has an action part.
    pub actions: &'a [u16],
    /// Times, seconds.
    pub times: &'a [i64],
}

impl<'a> Window<'a> {
    /// Number of events.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether there are no events.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The first `events` events (all of them where there are fewer).
    #[must_use]
    pub fn first(&self, events: usize) -> Window<'a> {
        let cut = events.min(self.len());
        Window { items: &self.items[..cut], actions: &self.actions[..cut], times: &self.times[..cut] }
    }

    /// Holds the window to the model: lengths, items, actions, times. Encoders check the same for the rows they
    /// compute; a caller checks ahead so that one bad window does not fail a whole batch.
    ///
    /// # Errors
    /// Names what is wrong and where.
    pub fn check(&self, config: &Config, items: &ItemTable) -> Result<(), EncodeError> {
        self.check_lengths(config)?;
        self.check_rows(0, config, items)
    }

    pub(crate) fn check_lengths(&self, config: &Config) -> Result<(), EncodeError> {
        let (items, actions, times) = (self.items.len(), self.actions.len(), self.times.len());
        if items != actions || items != times {
            return Err(EncodeError::Ragged { items, actions, times });
        }
        if items > config.max_sequence_len {
            return Err(EncodeError::WindowTooLong { len: items, max: config.max_sequence_len });
        }
        Ok(())
    }

    /// Events from `first` on.
    pub(crate) fn check_rows(&self, first: usize, config: &Config, items: &ItemTable) -> Result<(), EncodeError> {
        check_items(&self.items[first..], first, config, items)?;
        if config.action_embedding_dim > 0 {
            for (i, &action) in self.actions[first..].iter().enumerate() {
                if usize::from(action) >= config.num_actions {
                    return Err(EncodeError::UnknownAction { action, at: first + i, known: config.num_actions });
                }
            }
        }
        self.times[first..].iter().enumerate().try_for_each(|(i, &time)| check_time(time, first + i))
    }
}

/// Holds item slots to the table; `first` is the place of the first of them.
pub(crate) fn check_items(slots: &[u32], first: usize, config: &Config, items: &ItemTable) -> Result<(), EncodeError> {
    if items.dim() != config.item_embedding_dim {
        return Err(EncodeError::TableWidth { expected: config.item_embedding_dim, found: items.dim() });
    }
    for (i, &item) in slots.iter().enumerate() {
        if item == 0 {
            return Err(EncodeError::PaddingItem { at: first + i });
        }
        if item as usize >= items.rows() {
            return Err(EncodeError::UnknownItem { item, at: first + i, rows: items.rows() });
        }
    }
    Ok(())
}

pub(crate) fn check_time(time: i64, at: usize) -> Result<(), EncodeError> {
    if time.unsigned_abs() > TIME_MAX.unsigned_abs() {
        return Err(EncodeError::TimeOutOfRange { time, at });
    }
    Ok(())
}

/// First event of the window of a history of `total_events` events.
///
/// Positions count from the start of the window, so each move of the start costs a whole encode. The start
/// therefore moves by an eighth of `max_sequence_len` at a time, once in as many events: the window holds
/// between 7/8 of `max_sequence_len` and all of it once the history is longer than that.
///
/// ```
/// # use longbow_model::window_start;
/// assert_eq!(window_start(800, 800), 0);
/// assert_eq!(window_start(801, 800), 100);
/// assert_eq!(window_start(900, 800), 100);
/// assert_eq!(window_start(901, 800), 200);
/// ```
#[must_use]
pub fn window_start(total_events: usize, max_sequence_len: usize) -> usize {
    let over = total_events.saturating_sub(max_sequence_len);
    let step = (max_sequence_len / 8).max(1);
    (over.div_ceil(step) * step).min(total_events)
}
