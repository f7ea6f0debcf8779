//! The system calls that no safe crate offers in this shape; all unsafe code of the workspace.
//!
//! Every call builds its headers on the stack, pointing into buffers that outlive the call; no
//! pointer is kept. What the kernel wrote is read back only as far as the kernel says it wrote.
#![allow(unsafe_code)]

use std::io;
use std::mem::{MaybeUninit, size_of, zeroed};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use element::Transmit;
use libc::{
    c_int, c_void, cmsghdr, iovec, mmsghdr, msghdr, sockaddr_in, sockaddr_in6, sockaddr_storage,
};

/// How many datagrams go into one receive or send call at most.
pub const BATCH_DATAGRAMS: usize = 64;

/// Room for one datagram: the longest that UDP can carry.
const DATAGRAM_BYTES_MAX: usize = 65_536;

/// Room for the ancillary data of one datagram: one drop counter.
const CONTROL_BYTES: usize = 32;

/// Room for the ancillary data of one report: an error, the offender's address, a drop counter.
const REPORT_CONTROL_BYTES: usize = 256;

#[derive(Clone, Copy)]
#[repr(align(8))]
struct Control<const N: usize>([u8; N]);

/// A batch of received datagrams, and the buffers it is received into.
pub struct ReceiveBatch {
    buffers: Box<[u8]>,
    names: Box<[sockaddr_storage; BATCH_DATAGRAMS]>,
    controls: Box<[Control<CONTROL_BYTES>; BATCH_DATAGRAMS]>,
    lengths: [usize; BATCH_DATAGRAMS],
    received: usize,
    drops: Option<u32>,
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl ReceiveBatch {
    /// Allocates the buffers: 4 MiB of address space, of which only what is used costs memory.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage.
        let name: sockaddr_storage = unsafe { zeroed() };
        Self {
            buffers: vec![0; BATCH_DATAGRAMS * DATAGRAM_BYTES_MAX].into_boxed_slice(),
            names: Box::new([name; BATCH_DATAGRAMS]),
            controls: Box::new([Control([0; CONTROL_BYTES]); BATCH_DATAGRAMS]),
            lengths: [0; BATCH_DATAGRAMS],
            received: 0,
            drops: None,
        }
    }

    /// Receives what the socket holds, at most one batch, without waiting; returns how many.
    pub fn receive(&mut self, socket: BorrowedFd<'_>) -> io::Result<usize> {
        self.received = 0;
        self.drops = None;
        let mut slices = [EMPTY; BATCH_DATAGRAMS];
        // SAFETY: all zeroes is a valid mmsghdr: no buffers.
        let mut headers: [mmsghdr; BATCH_DATAGRAMS] = unsafe { zeroed() };
        for (i, buffer) in self
            .buffers
            .chunks_exact_mut(DATAGRAM_BYTES_MAX)
            .enumerate()
        {
            slices[i] = iovec {
                iov_base: buffer.as_mut_ptr().cast(),
                iov_len: buffer.len(),
            };
            let header = &mut headers[i].msg_hdr;
            header.msg_name = (&raw mut self.names[i]).cast();
            header.msg_namelen = size_of::<sockaddr_storage>() as u32;
            header.msg_iov = &raw mut slices[i];
            header.msg_iovlen = 1;
            header.msg_control = (&raw mut self.controls[i]).cast();
            header.msg_controllen = CONTROL_BYTES as _;
        }
        // SAFETY: each header points to buffers of self and of this frame with their true lengths,
        // no two share one, and all outlive the call.
        let received = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                headers.as_mut_ptr(),
                BATCH_DATAGRAMS as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let received = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
        for (length, header) in self.lengths.iter_mut().zip(&headers[..received]) {
            *length = header.msg_len as usize;
        }
        if let Some(last) = headers[..received].last() {
            self.drops = controls(&last.msg_hdr)
                .find(|control| {
                    (control.level, control.kind) == (libc::SOL_SOCKET, libc::SO_RXQ_OVFL)
                })
                .and_then(|control| control.read());
        }
        self.received = received;
        Ok(received)
    }

    /// Returns the datagrams of the last receive, in order. One of unknown address family is left out.
    pub fn datagrams(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let buffers = self.buffers.chunks_exact(DATAGRAM_BYTES_MAX);
        let all = self
            .names
            .iter()
            .zip(buffers)
            .zip(&self.lengths)
            .take(self.received);
        all.filter_map(|((name, buffer), &length)| Some((from_storage(name)?, &buffer[..length])))
    }

    /// Returns the socket's count of datagrams lost before the last one received, if it lost any.
    ///
    /// It counts from the start of the socket and wraps around at 32 bits (SO_RXQ_OVFL).
    pub fn drops(&self) -> Option<u32> {
        self.drops
    }
}

/// Sends at most a batch of datagrams, whatever their flows, from one socket; returns how many left.
///
/// An error concerns the first of them, or, where ICMP errors are reported (ECONNREFUSED and the
/// like), one that was sent before: it is cleared by having been reported.
pub fn send_batch(socket: BorrowedFd<'_>, transmits: &[Transmit<'_>]) -> io::Result<usize> {
    let count = transmits.len().min(BATCH_DATAGRAMS);
    let mut names = [MaybeUninit::<Name>::uninit(); BATCH_DATAGRAMS];
    let mut slices = [EMPTY; BATCH_DATAGRAMS];
    // SAFETY: all zeroes is a valid mmsghdr: no buffers.
    let mut headers: [mmsghdr; BATCH_DATAGRAMS] = unsafe { zeroed() };
    for (i, transmit) in transmits[..count].iter().enumerate() {
        let (name, length) = Name::of(transmit.destination);
        // The kernel only reads what it is told to send.
        slices[i] = iovec {
            iov_base: transmit.bytes.as_ptr().cast_mut().cast(),
            iov_len: transmit.bytes.len(),
        };
        let header = &mut headers[i].msg_hdr;
        header.msg_name = std::ptr::from_mut(names[i].write(name)).cast();
        header.msg_namelen = length;
        header.msg_iov = &raw mut slices[i];
        header.msg_iovlen = 1;
    }
    // SAFETY: the first `count` headers point to an initialised name and to the bytes of a transmit,
    // all of which outlive the call; there is no ancillary data.
    let sent = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as u32,
            libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL,
        )
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// One entry of a socket's error queue.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Report {
    /// Where the datagram was sent that caused it.
    pub(crate) destination: SocketAddr,
    /// What happened to it.
    pub(crate) errno: i32,
}

/// Takes the next entry of the error queue; `None` when it is empty.
pub(crate) fn take_report(socket: BorrowedFd<'_>) -> io::Result<Option<Report>> {
    loop {
        // SAFETY: all zeroes is a valid sockaddr_storage, and a valid msghdr.
        let (mut name, mut header): (sockaddr_storage, msghdr) = unsafe { (zeroed(), zeroed()) };
        let mut control = Control([0_u8; REPORT_CONTROL_BYTES]);
        header.msg_name = (&raw mut name).cast();
        header.msg_namelen = size_of::<sockaddr_storage>() as u32;
        header.msg_control = (&raw mut control).cast();
        header.msg_controllen = REPORT_CONTROL_BYTES as _;
        // SAFETY: the header points to buffers of this frame with their true lengths; no payload is
        // asked for.
        let result = unsafe {
            libc::recvmsg(
                socket.as_raw_fd(),
                &raw mut header,
                libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT,
            )
        };
        if result < 0 {
            let error = io::Error::last_os_error();
            return if error.kind() == io::ErrorKind::WouldBlock {
                Ok(None)
            } else {
                Err(error)
            };
        }
        let error = controls(&header)
            .find(|control| {
                matches!(
                    (control.level, control.kind),
                    (libc::IPPROTO_IP, libc::IP_RECVERR) | (libc::IPPROTO_IPV6, libc::IPV6_RECVERR)
                )
            })
            .and_then(|control| control.read::<libc::sock_extended_err>());
        // An entry without address or cause helps nobody; the next one may.
        if let (Some(destination), Some(error)) = (from_storage(&name), error) {
            return Ok(Some(Report {
                destination,
                errno: error.ee_errno as i32,
            }));
        }
    }
}

/// Sets a socket option whose value is an `int`.
pub(crate) fn set_option(
    socket: &impl AsFd,
    level: c_int,
    name: c_int,
    value: c_int,
) -> io::Result<()> {
    // SAFETY: the value lives through the call and has the length that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            (&raw const value).cast::<c_void>(),
            size_of::<c_int>() as u32,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

const EMPTY: iovec = iovec {
    iov_base: std::ptr::null_mut(),
    iov_len: 0,
};

/// A destination as the kernel wants it.
#[derive(Clone, Copy)]
union Name {
    v4: sockaddr_in,
    v6: sockaddr_in6,
}

impl Name {
    fn of(address: SocketAddr) -> (Self, u32) {
        match address {
            SocketAddr::V4(address) => {
                let name = sockaddr_in {
                    sin_family: libc::AF_INET as u16,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr {
                        s_addr: u32::from_ne_bytes(address.ip().octets()),
                    },
                    sin_zero: [0; 8],
                };
                (Self { v4: name }, size_of::<sockaddr_in>() as u32)
            }
            SocketAddr::V6(address) => {
                let name = sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as u16,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo(),
                    sin6_addr: libc::in6_addr {
                        s6_addr: address.ip().octets(),
                    },
                    sin6_scope_id: address.scope_id(),
                };
                (Self { v6: name }, size_of::<sockaddr_in6>() as u32)
            }
        }
    }
}

fn from_storage(storage: &sockaddr_storage) -> Option<SocketAddr> {
    match c_int::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: a sockaddr_storage is large and aligned enough for a sockaddr_in, all bytes of
            // it are initialised, and the family says that it is one.
            let name = unsafe { &*std::ptr::from_ref(storage).cast::<sockaddr_in>() };
            let ip = Ipv4Addr::from(name.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddrV4::new(ip, u16::from_be(name.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: as above, for a sockaddr_in6.
            let name = unsafe { &*std::ptr::from_ref(storage).cast::<sockaddr_in6>() };
            let ip = Ipv6Addr::from(name.sin6_addr.s6_addr);
            let port = u16::from_be(name.sin6_port);
            Some(SocketAddrV6::new(ip, port, name.sin6_flowinfo, name.sin6_scope_id).into())
        }
        _ => None,
    }
}

/// One item of ancillary data.
struct ControlItem<'a> {
    level: c_int,
    kind: c_int,
    data: &'a [u8],
}

impl ControlItem<'_> {
    /// Reads the data as a plain C value, if there is enough of it.
    fn read<T: PlainData>(&self) -> Option<T> {
        // SAFETY: there are as many initialised bytes as T has, and any bytes are a valid T; the
        // read does not need them aligned.
        (self.data.len() >= size_of::<T>())
            .then(|| unsafe { self.data.as_ptr().cast::<T>().read_unaligned() })
    }
}

/// A C value of which any bytes are a valid value.
trait PlainData: Copy {}
impl PlainData for u32 {}
impl PlainData for libc::sock_extended_err {}

/// Walks the ancillary data of a header that the kernel has filled in.
fn controls(header: &msghdr) -> impl Iterator<Item = ControlItem<'_>> {
    // SAFETY: msg_control and msg_controllen are as the kernel left them: the buffer that was given,
    // initialised up to the length; the macros stay within it.
    let mut next: *const cmsghdr = unsafe { libc::CMSG_FIRSTHDR(header) };
    std::iter::from_fn(move || {
        // SAFETY: `next` is null or a control header within the buffer, as the macros returned it,
        // and its data follow it.
        unsafe {
            let control = next.as_ref()?;
            let head = libc::CMSG_LEN(0) as usize;
            let length = (control.cmsg_len as usize).checked_sub(head)?;
            let data = std::slice::from_raw_parts(libc::CMSG_DATA(next), length);
            next = libc::CMSG_NXTHDR(header, next);
            Some(ControlItem {
                level: control.cmsg_level,
                kind: control.cmsg_type,
                data,
            })
        }
    })
}
