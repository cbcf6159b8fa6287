//! Network namespaces: which one a process is in, its cookie, and doing something inside one.

use nix::{
    libc,
    sched::{CloneFlags, setns},
};
use std::{
    fs::File,
    io,
    os::fd::{AsFd as _, AsRawFd as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process,
    sync::OnceLock,
};

/// A network namespace, kept alive by an open descriptor.
#[derive(Debug)]
pub struct NetworkNamespace {
    file: File,
    inode: u64,
    cookie: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkNamespaceError {
    #[error("cannot open the network namespace {path}: {source}")]
    Open { path: PathBuf, source: io::Error },
    #[error("cannot enter the network namespace {path} (CAP_SYS_ADMIN is needed): {source}")]
    Enter { path: PathBuf, source: io::Error },
    #[error("the kernel does not tell network namespaces apart (SO_NETNS_COOKIE): {0}")]
    Cookie(io::Error),
}

impl NetworkNamespace {
    /// The namespace of this process.
    pub fn own() -> Result<Self, NetworkNamespaceError> {
        Self::open(Path::new("/proc/self/ns/net"))
    }

    /// The namespace that a process is in now.
    pub fn of_process(pid: i32) -> Result<Self, NetworkNamespaceError> {
        Self::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// The inode that names the namespace of a process, without opening it; `None` when the process is gone.
    #[must_use]
    pub fn inode_of_process(pid: i32) -> Option<u64> {
        std::fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|metadata| metadata.ino())
    }

    fn open(path: &Path) -> Result<Self, NetworkNamespaceError> {
        let open = || -> io::Result<(File, u64)> {
            let file = File::open(path)?;
            let inode = file.metadata()?.ino();
            Ok((file, inode))
        };
        let (file, inode) =
            open().map_err(|source| NetworkNamespaceError::Open { path: path.to_owned(), source })?;
        let mut namespace = Self { file, inode, cookie: 0 };
        let socket = namespace
            .run(|| socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None))
            .map_err(|source| NetworkNamespaceError::Enter { path: path.to_owned(), source })?;
        namespace.cookie = netns_cookie(&socket).map_err(NetworkNamespaceError::Cookie)?;
        Ok(namespace)
    }

    #[must_use]
    pub fn inode(&self) -> u64 {
        self.inode
    }

    /// What the kernel programs know this namespace by. Never used twice while the machine is up.
    #[must_use]
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs `f` on this thread inside the namespace. Sockets made there stay there.
    pub fn run<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let own = own_namespace()?;
        if own.inode == self.inode {
            return f();
        }
        setns(self.file.as_fd(), CloneFlags::CLONE_NEWNET)?;
        let result = f();
        if let Err(error) = setns(own.file.as_fd(), CloneFlags::CLONE_NEWNET) {
            // From here on this thread would make the agent's own sockets in a workload's namespace.
            tracing::error!(%error, "cannot return to the agent's own network namespace");
            process::abort();
        }
        result
    }
}

struct OwnNamespace {
    file: File,
    inode: u64,
}

/// The namespace that the process started in. Opened once: `/proc/self/ns/net` is the main thread's, and only
/// `NetworkNamespace::run` ever changes a thread's.
fn own_namespace() -> io::Result<&'static OwnNamespace> {
    static OWN: OnceLock<OwnNamespace> = OnceLock::new();
    if let Some(own) = OWN.get() {
        return Ok(own);
    }
    let file = File::open("/proc/self/ns/net")?;
    let inode = file.metadata()?.ino();
    Ok(OWN.get_or_init(|| OwnNamespace { file, inode }))
}

/// Whether the kernel says which network namespace a socket is in.
pub(super) fn cookies_are_known() -> io::Result<bool> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    match netns_cookie(&socket) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => Ok(false),
        answer => answer.map(|_| true),
    }
}

fn netns_cookie(socket: &socket2::Socket) -> io::Result<u64> {
    let mut cookie: u64 = 0;
    let mut len = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or_default();
    // SAFETY: the option writes at most `len` bytes, which is the variable's size.
    #[expect(unsafe_code, reason = "no library wraps SO_NETNS_COOKIE")]
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut len,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::NetworkNamespace;

    #[test]
    fn a_process_is_in_its_own_namespace() {
        let pid = i32::try_from(std::process::id()).unwrap();
        let own = NetworkNamespace::own().unwrap();
        let same = NetworkNamespace::of_process(pid).unwrap();
        assert_eq!((own.inode(), own.cookie()), (same.inode(), same.cookie()));
        assert_eq!(NetworkNamespace::inode_of_process(pid), Some(own.inode()));
        assert_ne!(own.cookie(), 0);
    }
}
