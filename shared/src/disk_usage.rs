//! The disk space of the embedded file.

/// The disk space of a store on this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskUsage {
    /// The bytes that this process may still write to the file system.
    pub free_bytes: u64,
    /// The size of the database.
    pub database_bytes: u64,
    /// The size of the write-ahead log. Its content moves to the database from time to time.
    pub log_bytes: u64,
}
