//! A set of item slots as 64-bit words: the form in which eligibility travels from the catalogue into the search.

/// A growable set of item slots. Slots beyond the stored words are absent, so two sets of different lengths combine as expected.
///
/// Bit `slot % 64` of word `slot / 64` stands for `slot`; on a little-endian machine the words are, byte for byte, the bitmap
/// that FAISS reads.
#[derive(Clone, Debug, Default)]
pub struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// The empty set; no memory is taken until the first [`set`](Self::set).
    #[must_use]
    pub const fn new() -> Self {
        Self { words: Vec::new() }
    }

    /// The empty set with room for slots `0..slots`.
    #[must_use]
    pub fn with_slots(slots: usize) -> Self {
        Self { words: vec![0; slots.div_ceil(64)] }
    }

    /// All of `0..slots`.
    #[must_use]
    pub fn full(slots: usize) -> Self {
        let mut words = vec![u64::MAX; slots.div_ceil(64)];
        if !slots.is_multiple_of(64)
            && let Some(last) = words.last_mut()
        {
            *last = (1 << (slots % 64)) - 1;
        }
        Self { words }
    }

    /// A set from its words, as [`words`](Self::words) gives them.
    #[must_use]
    pub const fn from_words(words: Vec<u64>) -> Self {
        Self { words }
    }

    /// The words, lowest slots first.
    #[must_use]
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The number of slots the stored words cover (a multiple of 64), set or not.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.words.len() * 64
    }

    /// Bytes of memory behind the set.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.words.capacity() * 8
    }

    /// Adds `slot`, growing as needed; true if it was absent.
    pub fn set(&mut self, slot: u32) -> bool {
        let word = slot as usize / 64;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (slot % 64);
        let absent = self.words[word] & bit == 0;
        self.words[word] |= bit;
        absent
    }

    /// Takes `slot` out; true if it was present.
    pub fn clear(&mut self, slot: u32) -> bool {
        let Some(word) = self.words.get_mut(slot as usize / 64) else { return false };
        let bit = 1 << (slot % 64);
        let present = *word & bit != 0;
        *word &= !bit;
        present
    }

    /// Whether `slot` is in the set.
    #[must_use]
    pub fn get(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// How many slots are in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// True when no slot is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words.iter().all(|&word| word == 0)
    }

    /// Keeps what `other` has as well.
    pub fn and(&mut self, other: &Self) {
        self.words.truncate(other.words.len());
        for (word, &theirs) in self.words.iter_mut().zip(&other.words) {
            *word &= theirs;
        }
    }

    /// Adds what `other` has.
    pub fn or(&mut self, other: &Self) {
        if other.words.len() > self.words.len() {
            self.words.resize(other.words.len(), 0);
        }
        for (word, &theirs) in self.words.iter_mut().zip(&other.words) {
            *word |= theirs;
        }
    }

    /// Takes out what `other` has.
    pub fn and_not(&mut self, other: &Self) {
        for (word, &theirs) in self.words.iter_mut().zip(&other.words) {
            *word &= !theirs;
        }
    }

    /// How many slots both sets have, without building their intersection.
    #[must_use]
    pub fn intersection_count(&self, other: &Self) -> usize {
        self.words.iter().zip(&other.words).map(|(a, b)| (a & b).count_ones() as usize).sum()
    }

    /// The slots, ascending.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        (0_u32..).zip(&self.words).flat_map(|(index, &word)| Bits { word, base: index * 64 })
    }

    /// The slots of words `from..to`, ascending: one block of a scan. Words past the end are empty.
    pub(crate) fn iter_words(&self, from: usize, to: usize) -> impl Iterator<Item = u32> + '_ {
        let to = to.min(self.words.len());
        let from = from.min(to);
        #[expect(clippy::cast_possible_truncation, reason = "a word index is a u32 slot divided by 64")]
        (from as u32..).zip(&self.words[from..to]).flat_map(|(index, &word)| Bits { word, base: index * 64 })
    }
}

impl PartialEq for Bitmap {
    /// Equal as sets: trailing empty words do not count.
    fn eq(&self, other: &Self) -> bool {
        let (short, long) = if self.words.len() <= other.words.len() {
            (&self.words, &other.words)
        } else {
            (&other.words, &self.words)
        };
        long[..short.len()] == short[..] && long[short.len()..].iter().all(|&word| word == 0)
    }
}

impl Eq for Bitmap {}

impl FromIterator<u32> for Bitmap {
    fn from_iter<I: IntoIterator<Item = u32>>(slots: I) -> Self {
        let mut set = Self::new();
        set.extend(slots);
        set
    }
}

impl Extend<u32> for Bitmap {
    fn extend<I: IntoIterator<Item = u32>>(&mut self, slots: I) {
        for slot in slots {
            self.set(slot);
        }
    }
}

/// The set bits of one word.
struct Bits {
    word: u64,
    base: u32,
}

impl Iterator for Bits {
    type Item = u32;

    #[inline]
    fn next(&mut self) -> Option<u32> {
        if self.word == 0 {
            return None;
        }
        let bit = self.word.trailing_zeros();
        self.word &= self.word - 1;
        Some(self.base + bit)
    }
}
