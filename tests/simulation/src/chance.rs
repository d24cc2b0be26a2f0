//! The only source of randomness of a world.

/// `SplitMix64`. A seed must always give the same world. The generators of `rand` can change with
/// its version, and would invalidate the seeds of the regression tests.
#[derive(Clone, Debug)]
pub struct Chance(u64);

impl Chance {
    /// Creates the generator from a seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number less than `bound`, or 0 if `bound` is 0.
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.bits() % bound }
    }

    /// True with this probability. Draws no number if the probability is 0.
    pub fn happens(&mut self, probability: f64) -> bool {
        probability > 0.0 && ((self.bits() >> 11) as f64 / (1_u64 << 53) as f64) < probability
    }

    /// One of these values.
    pub fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len() as u64) as usize]
    }
}
