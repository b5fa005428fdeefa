//! A stand-in for the index room's bitmap with the operations that the catalogue needs.

/// One bit for each slot.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bitmap {
    words: Vec<u64>,
    len: usize,
}

impl Bitmap {
    /// All zero, for slots `0..len`.
    #[must_use]
    pub fn new(len: usize) -> Self {
        Self { words: vec![0; len.div_ceil(64)], len }
    }

    /// Slots it has room for.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// True when it has room for no slot.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Sets one bit. Bits at `len` and beyond are ignored.
    pub fn set(&mut self, slot: u32) {
        if (slot as usize) < self.len {
            self.words[slot as usize / 64] |= 1 << (slot % 64);
        }
    }

    /// Clears one bit.
    pub fn clear(&mut self, slot: u32) {
        if (slot as usize) < self.len {
            self.words[slot as usize / 64] &= !(1 << (slot % 64));
        }
    }

    /// Reads one bit.
    #[must_use]
    pub fn get(&self, slot: u32) -> bool {
        self.words.get(slot as usize / 64).is_some_and(|word| word >> (slot % 64) & 1 == 1)
    }

    /// Bits set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words.iter().map(|word| word.count_ones() as usize).sum()
    }

    /// Set bits in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(&word, index)| {
            let mut rest = word;
            std::iter::from_fn(move || {
                (rest != 0).then(|| {
                    let bit = rest.trailing_zeros();
                    rest &= rest - 1;
                    index * 64 + bit
                })
            })
        })
    }

    /// Keeps what both have; slots that `other` has no room for count as zero.
    pub fn and(&mut self, other: &Self) {
        for (i, word) in self.words.iter_mut().enumerate() {
            *word &= other.words.get(i).copied().unwrap_or(0);
        }
    }

    /// Adds what `other` has, up to this one's length.
    pub fn or(&mut self, other: &Self) {
        for (word, &more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
    }

    /// Takes away what `other` has.
    pub fn and_not(&mut self, other: &Self) {
        for (word, &less) in self.words.iter_mut().zip(&other.words) {
            *word &= !less;
        }
    }
}
