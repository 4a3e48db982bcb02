//! A caller's identity and role.

use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;
use std::{fmt, io};

use anyhow::{Context, anyhow};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::{Gid, Group, Uid, User, geteuid};
use tokio::net::UnixStream;

use crate::model::Api;

/// A caller's role.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Nothing is allowed.
    None,
    /// Reading is allowed.
    Read,
    /// Everything is allowed.
    Admin,
}

/// The caller of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Its identity.
    pub who: Who,
    /// Its role.
    pub role: Role,
}

/// A caller's identity.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Who {
    /// A process of this host, with its credentials when it connected (`SO_PEERCRED`, socket(7)).
    Process {
        /// Its user.
        uid: Uid,
        /// Its id.
        pid: i32,
    },
    /// The holder of a certificate that a CA of `client_ca` signed.
    Certificate {
        /// Its name to which the config gives a role, else its first one. Empty if it has none.
        name: String,
        /// Its serial number, as bytes in hex.
        serial: String,
        /// The client's address.
        from: SocketAddr,
    },
    /// A process whose credentials could not be read, or a certificate.
    Unknown,
}

impl Who {
    /// In words: `alice (uid 1000, pid 4242)`, `certificate "alice" (serial 4f, from 192.0.2.7:40000)`. Looks up the user's name,
    /// which may take long.
    pub async fn words(self) -> String {
        let Self::Process { uid, pid } = self else { return self.to_string() };
        let name = tokio::task::spawn_blocking(move || User::from_uid(uid));
        match tokio::time::timeout(Duration::from_secs(1), name).await {
            Ok(Ok(Ok(Some(user)))) => format!("{} (uid {uid}, pid {pid})", user.name),
            _ => self.to_string(),
        }
    }
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Process { uid, pid } => write!(f, "uid {uid}, pid {pid}"),
            // As a Rust literal, so that a certificate's text cannot start a line of the log, or look like another name.
            Self::Certificate { name, serial, from } => {
                write!(f, "certificate {name:?} (serial {serial}, from {from})")
            }
            Self::Unknown => f.write_str("an unknown process"),
        }
    }
}

/// The groups of this host that have access to the control socket.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Groups {
    /// Groups whose members may do everything, like root.
    pub admin: Vec<Gid>,
    /// Groups whose members may read.
    pub read: Vec<Gid>,
}

impl Groups {
    /// The groups in the config.
    ///
    /// # Errors
    /// If this host has no such group.
    pub fn resolve(config: &Api) -> anyhow::Result<Self> {
        let resolve = |key: &str, names: &[String]| {
            names
                .iter()
                .map(|name| {
                    let group =
                        Group::from_name(name).with_context(|| format!("cannot look up the group {name}"))?;
                    let missing = || {
                        anyhow!(
                            "api.{key}: this host has no group \"{name}\": create it (groupadd --system \
                                 {name}), or name another"
                        )
                    };
                    group.map(|group| group.gid).ok_or_else(missing)
                })
                .collect::<anyhow::Result<Vec<_>>>()
        };
        Ok(Self {
            admin: resolve("admin_groups", &config.admin_groups)?,
            read: resolve("read_groups", &config.read_groups)?,
        })
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Gid> {
        self.admin.iter().chain(&self.read).copied()
    }

    /// The caller at the other end of a connection.
    pub fn caller(&self, stream: &UnixStream) -> Caller {
        let Ok(peer) = getsockopt(stream, sockopt::PeerCredentials) else {
            return Caller { who: Who::Unknown, role: Role::None };
        };
        let uid = Uid::from_raw(peer.uid());
        // If its groups cannot be read, only its primary group counts.
        let mut groups = peer_groups(stream.as_raw_fd()).unwrap_or_default();
        groups.push(Gid::from_raw(peer.gid()));
        Caller { who: Who::Process { uid, pid: peer.pid() }, role: self.role(uid, &groups) }
    }

    fn role(&self, uid: Uid, groups: &[Gid]) -> Role {
        let is_in = |those: &[Gid]| groups.iter().any(|group| those.contains(group));
        if uid.is_root() || uid == geteuid() || is_in(&self.admin) {
            Role::Admin
        } else if is_in(&self.read) {
            Role::Read
        } else {
            Role::None
        }
    }
}

/// The supplementary groups of the process that connected (`SO_PEERGROUPS`, Linux 4.13).
fn peer_groups(socket: RawFd) -> io::Result<Vec<Gid>> {
    let mut groups: Vec<libc::gid_t> = vec![0; 32];
    loop {
        let mut length = (groups.len() * size_of::<libc::gid_t>()) as libc::socklen_t;
        // SAFETY: the kernel writes at most `length` bytes to the vector, which has that many, and `length` itself.
        let done = unsafe {
            libc::getsockopt(
                socket,
                libc::SOL_SOCKET,
                libc::SO_PEERGROUPS,
                groups.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        let count = length as usize / size_of::<libc::gid_t>();
        match (done, io::Error::last_os_error()) {
            (0, _) => {
                groups.truncate(count);
                return Ok(groups.into_iter().map(Gid::from_raw).collect());
            }
            // There are more, and `length` is their size.
            (_, error) if error.raw_os_error() == Some(libc::ERANGE) && count > groups.len() => {
                groups.resize(count, 0);
            }
            (_, error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_is_the_highest_of_any_group() {
        let gid = Gid::from_raw;
        let groups = Groups { admin: vec![gid(10), gid(11)], read: vec![gid(20)] };
        let alice = Uid::from_raw(4242);
        for (of, role) in [
            (&[][..], Role::None),
            (&[gid(30)], Role::None),
            (&[gid(30), gid(20)], Role::Read),
            (&[gid(20), gid(11)], Role::Admin),
            (&[gid(10)], Role::Admin),
        ] {
            assert_eq!(groups.role(alice, of), role, "{of:?}");
        }
        assert_eq!(groups.role(Uid::from_raw(0), &[]), Role::Admin);
        assert_eq!(Groups::default().role(alice, &[gid(0)]), Role::None, "root's group is not root");
    }

    #[tokio::test]
    async fn the_peer_of_a_connection_is_this_process_with_all_its_groups() {
        let (one, _other) = UnixStream::pair().unwrap();
        let groups = nix::unistd::getgroups().unwrap();
        assert_eq!(peer_groups(one.as_raw_fd()).unwrap(), groups);
        let pid = std::process::id() as i32;
        assert_eq!(Groups::default().caller(&one).who, Who::Process { uid: geteuid(), pid });
    }

    #[test]
    fn a_group_that_there_is_not_is_refused_in_words() {
        let config = Api { read_groups: vec!["no-such-group".into()], ..Api::default() };
        let error = Groups::resolve(&config).unwrap_err().to_string();
        assert!(error.contains("api.read_groups: this host has no group \"no-such-group\""), "{error}");
    }
}
