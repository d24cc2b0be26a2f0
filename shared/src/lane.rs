//! The two queues, and the size of their batches.

/// The most messages of one receive, or of one call of a function: the maximum of SQS.
pub const MAX_BATCH: usize = 10;

/// One of the two queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The webhook queue, which `deliver` reads.
    Webhooks,
    /// The dead-letter queue, which `dlq` reads. It has failed webhooks, and messages that were
    /// received too often.
    DeadLetters,
}

impl Lane {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Webhooks, Self::DeadLetters];

    /// The number that the embedded queue stores for the lane. A stored number never changes and is
    /// never given to another lane.
    pub const fn code(self) -> u8 {
        match self {
            Self::Webhooks => 0,
            Self::DeadLetters => 1,
        }
    }

    /// The lane's place in [`Lane::ALL`], for arrays in memory.
    pub const fn index(self) -> usize {
        match self {
            Self::Webhooks => 0,
            Self::DeadLetters => 1,
        }
    }
}

const _: () = {
    let mut place = 0;
    while place < Lane::ALL.len() {
        assert!(Lane::ALL[place].index() == place, "a lane's index is its place in ALL");
        place += 1;
    }
};
