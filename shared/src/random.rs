//! Randomness as a parameter, so a simulation can replay it.

use std::fmt::Debug;

use rand::Rng;

/// A source of random numbers.
pub trait Random: Send + Sync + Debug {
    /// 64 unpredictable bits.
    fn next_u64(&self) -> u64;

    /// Fills the buffer with unpredictable bytes.
    fn fill(&self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            chunk.copy_from_slice(&self.next_u64().to_le_bytes()[..chunk.len()]);
        }
    }

    /// A number in `0.0..1.0`, uniformly distributed.
    fn next_unit(&self) -> f64 {
        // A double holds 53 bits.
        (self.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// The name of one write: 64 random bits in hexadecimal. If the client sends a write twice, the
/// name tells it from another writer's equal write.
#[cfg(any(feature = "aws", feature = "redis"))]
pub(crate) fn write_name() -> String {
    format!("{:016x}", SystemRandom.next_u64())
}

/// The thread's cryptographically secure generator, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }

    fn fill(&self, buffer: &mut [u8]) {
        rand::rng().fill_bytes(buffer);
    }
}

/// The same bits at each call, for golden values.
#[cfg(test)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct FixedRandom(pub(crate) u64);

#[cfg(test)]
impl Random for FixedRandom {
    fn next_u64(&self) -> u64 {
        self.0
    }
}
