//! Who is calling, and may he? The kernel's word on the other end of the control socket, against the configuration.

use bgproxy_conf::{Control, Principal};
use nix::unistd::{Gid, Group, Uid, User, getgrouplist};
use tokio::net::UnixStream;
use tokio::net::unix::UCred;

/// The process at the other end of the control socket, as the kernel says (SO_PEERCRED).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// Its user.
    pub uid: u32,
    /// Its group.
    pub gid: u32,
    /// Its process, if it is in our pid namespace.
    pub pid: Option<i32>,
    /// The user's name, if there is one.
    pub user: Option<String>,
}

/// What somebody wants to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wants {
    /// Look.
    View,
    /// Change something.
    Operate,
}

impl Caller {
    /// Whoever has these credentials.
    pub fn new(credentials: &UCred) -> Caller {
        let uid = credentials.uid();
        Caller { uid, gid: credentials.gid(), pid: credentials.pid(), user: user_name(uid) }
    }

    /// Whoever is at the other end of this connection.
    pub fn of(stream: &UnixStream) -> Caller {
        match stream.peer_cred() {
            Ok(credentials) => Caller::new(&credentials),
            Err(error) => {
                tracing::warn!("cannot tell who is calling: {error}");
                // Nobody's uid: may do only what everybody may.
                Caller { uid: u32::MAX, gid: u32::MAX, pid: None, user: None }
            }
        }
    }

    /// Whether he may, by the configuration in force. Root and the daemon's own user always may.
    pub fn may(&self, wants: Wants, control: &Control) -> bool {
        if self.uid == 0 || self.uid == Uid::effective().as_raw() {
            return true;
        }
        let allowed = |list: &[Principal]| list.iter().any(|principal| self.is(principal));
        allowed(&control.operators) || (wants == Wants::View && allowed(&control.viewers))
    }

    fn is(&self, principal: &Principal) -> bool {
        match principal {
            Principal::Everybody => true,
            Principal::User(name) => {
                self.user.as_deref() == Some(name) || name.parse::<u32>().is_ok_and(|uid| uid == self.uid)
            }
            Principal::Group(name) => self.is_in(name),
        }
    }

    fn is_in(&self, group: &str) -> bool {
        let named = Group::from_name(group).ok().flatten().map(|group| group.gid);
        let Some(gid) = named.or_else(|| group.parse().ok().map(Gid::from_raw)) else { return false };
        gid.as_raw() == self.gid || self.groups().contains(&gid)
    }

    fn groups(&self) -> Vec<Gid> {
        let name = self.user.as_deref().and_then(|name| std::ffi::CString::new(name).ok());
        name.and_then(|name| getgrouplist(&name, Gid::from_raw(self.gid)).ok()).unwrap_or_default()
    }
}

impl std::fmt::Display for Caller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "uid {}", self.uid)?;
        if let Some(user) = &self.user {
            write!(f, " ({user})")?;
        }
        match self.pid {
            Some(pid) => write!(f, " pid {pid}"),
            None => Ok(()),
        }
    }
}

fn user_name(uid: u32) -> Option<String> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name)
}

/// Names in the configuration that no user or group of this host has: most likely mistyped.
pub fn unknown_names(control: &Control) -> Vec<String> {
    let all = control.operators.iter().chain(&control.viewers);
    all.filter(|principal| match principal {
        Principal::Everybody => false,
        Principal::User(name) => name.parse::<u32>().is_err() && User::from_name(name).ok().flatten().is_none(),
        Principal::Group(name) => name.parse::<u32>().is_err() && Group::from_name(name).ok().flatten().is_none(),
    })
    .map(ToString::to_string)
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn control(operators: &[Principal], viewers: &[Principal]) -> Control {
        Control { operators: operators.to_vec(), viewers: viewers.to_vec(), ..Control::default() }
    }

    fn nobody() -> Caller {
        Caller { uid: 65_534, gid: 65_534, pid: Some(1), user: Some("nobody".into()) }
    }

    #[test]
    fn operators_may_both_viewers_may_look_and_others_nothing() {
        let user = |name: &str| Principal::User(name.into());
        let may = |control: &Control| (nobody().may(Wants::View, control), nobody().may(Wants::Operate, control));
        assert_eq!(may(&control(&[user("nobody")], &[])), (true, true));
        assert_eq!(may(&control(&[user("65534")], &[])), (true, true));
        assert_eq!(may(&control(&[user("root")], &[Principal::Everybody])), (true, false));
        assert_eq!(may(&control(&[user("root")], &[user("daemon")])), (false, false));
        assert_eq!(may(&control(&[Principal::Group("nogroup".into())], &[])), (true, true));
        assert_eq!(may(&control(&[Principal::Group("65534".into())], &[])), (true, true));
        assert_eq!(may(&control(&[Principal::Group("no such group".into())], &[])), (false, false));
    }

    #[test]
    fn root_always_may() {
        let root = Caller { uid: 0, gid: 0, pid: None, user: None };
        assert!(root.may(Wants::Operate, &control(&[], &[])));
    }

    #[test]
    fn mistyped_names_are_found() {
        let control = control(&[Principal::User("rooot".into()), Principal::User("root".into())], &[]);
        assert_eq!(unknown_names(&control), ["rooot"]);
    }
}
