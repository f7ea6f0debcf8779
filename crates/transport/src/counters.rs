//! What one worker has counted.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

/// Why a datagram could not be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SendErrorKind {
    /// Nobody listens there (ECONNREFUSED).
    Refused,
    /// There is no way to that host or network.
    Unreachable,
    /// The socket's send buffer stayed full.
    Full,
    /// Longer than a datagram can be.
    TooLong,
    /// A firewall rule of this machine forbids it.
    NotPermitted,
    /// Anything else.
    Other,
}

impl SendErrorKind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Self; 6] = [
        Self::Refused,
        Self::Unreachable,
        Self::Full,
        Self::TooLong,
        Self::NotPermitted,
        Self::Other,
    ];

    /// Returns the name of the kind as a metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::Full => "full",
            Self::TooLong => "too_long",
            Self::NotPermitted => "not_permitted",
            Self::Other => "other",
        }
    }

    pub(crate) fn of(error: &io::Error) -> Self {
        match error.raw_os_error() {
            Some(libc::ECONNREFUSED) => Self::Refused,
            Some(
                libc::EHOSTUNREACH
                | libc::ENETUNREACH
                | libc::EHOSTDOWN
                | libc::ENETDOWN
                | libc::ENOPROTOOPT,
            ) => Self::Unreachable,
            Some(libc::EAGAIN | libc::ENOBUFS) => Self::Full,
            Some(libc::EMSGSIZE) => Self::TooLong,
            Some(libc::EPERM | libc::EACCES) => Self::NotPermitted,
            _ => Self::Other,
        }
    }
}

/// Counters of one worker, read by metrics while it runs.
#[derive(Debug, Default)]
pub struct Counters {
    pub(crate) datagrams_in: AtomicU64,
    pub(crate) datagrams_out: AtomicU64,
    pub(crate) batches: AtomicU64,
    pub(crate) turns: AtomicU64,
    pub(crate) kernel_drops: AtomicU64,
    pub(crate) resent: AtomicU64,
    pub(crate) unreachable: AtomicU64,
    pub(crate) receive_errors: AtomicU64,
    pub(crate) send_errors: [AtomicU64; SendErrorKind::ALL.len()],
}

impl Counters {
    /// Returns the datagrams received.
    pub fn datagrams_in(&self) -> u64 {
        self.datagrams_in.load(Ordering::Relaxed)
    }

    /// Returns the datagrams that the kernel took to be sent.
    pub fn datagrams_out(&self) -> u64 {
        self.datagrams_out.load(Ordering::Relaxed)
    }

    /// Returns the batches received, of 1 to [`crate::BATCH_DATAGRAMS`] datagrams.
    pub fn batches(&self) -> u64 {
        self.batches.load(Ordering::Relaxed)
    }

    /// Returns how often the worker woke up.
    pub fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    /// Returns the datagrams that the kernel dropped because a receive buffer was full.
    ///
    /// The kernel says so with the datagrams it queues later: the count is behind while none comes.
    pub fn kernel_drops(&self) -> u64 {
        self.kernel_drops.load(Ordering::Relaxed)
    }

    /// Returns the datagrams that were sent again because a send reported some earlier one's error.
    pub fn resent(&self) -> u64 {
        self.resent.load(Ordering::Relaxed)
    }

    /// Returns the reports that a destination cannot be reached.
    pub fn unreachable(&self) -> u64 {
        self.unreachable.load(Ordering::Relaxed)
    }

    /// Returns the failed receives, other than reports that belong to a datagram sent earlier.
    pub fn receive_errors(&self) -> u64 {
        self.receive_errors.load(Ordering::Relaxed)
    }

    /// Returns the datagrams that could not be sent for one reason.
    pub fn send_errors(&self, kind: SendErrorKind) -> u64 {
        self.send_errors[kind as usize].load(Ordering::Relaxed)
    }
}

pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Ordering::Relaxed);
}
