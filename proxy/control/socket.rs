//! Where is the daemon told what to do? On a unix socket, taken over from a dead daemon but never from a living one.

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use tokio::net::UnixListener;

use crate::{Hint, harden};

/// The control socket, ours until it is removed.
#[derive(Debug)]
pub struct ControlSocket {
    path: PathBuf,
    listener: std::os::unix::net::UnixListener,
    inode: (u64, u64),
}

impl ControlSocket {
    /// Binds it under another name and renames it, so that there is never a moment without one.
    ///
    /// # Errors
    /// One error that says what is there instead, or what the host refused, and what to do.
    pub fn bind(path: &Path) -> anyhow::Result<ControlSocket> {
        let what = |doing: &str| format!("cannot {doing} the control socket {}", path.display());
        let hint = |text: &str| Hint(text.to_owned());
        if let Some(dir) = path.parent()
            && !dir.exists()
        {
            // Below /run nothing survives a reboot; everything else is the operator's to make.
            std::fs::create_dir(dir)
                // Whoever may not enter it cannot open the socket either.
                .and_then(|()| std::fs::set_permissions(dir, harden::permissions(0o755)))
                .with_context(|| what("create"))
                .with_context(|| hint(&format!("make its directory with `install -d {}`", dir.display())))?;
        }
        match std::fs::symlink_metadata(path) {
            Ok(file) if !file.file_type().is_socket() => {
                return Err(anyhow!("{}: a file is there that is no socket", what("create"))
                    .context(hint("remove it, or change `control.socket`")));
            }
            Ok(_) => match UnixStream::connect(path) {
                Ok(running) => {
                    let fault = anyhow!("{}: a running bgproxy{} serves it", what("take"), pid_of(running));
                    return Err(fault.context(hint("stop that one, or give this one a `control.socket` of its own")));
                }
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                    tracing::info!(path = %path.display(), "replacing a control socket that nobody serves");
                }
                Err(error) => return Err(error).with_context(|| what("look at")),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).with_context(|| what("look at")),
        }
        let mut temp = path.as_os_str().to_owned();
        temp.push(".new");
        let temp = PathBuf::from(temp);
        if let Err(error) = std::fs::remove_file(&temp)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error).with_context(|| what("create"));
        }
        let bound = || -> io::Result<ControlSocket> {
            let listener = std::os::unix::net::UnixListener::bind(&temp)?;
            // Everybody may connect, because every call is checked by who is calling: the file's mode could not tell
            // operators from viewers.
            std::fs::set_permissions(&temp, std::fs::Permissions::from_mode(0o666))?;
            std::fs::rename(&temp, path)?;
            listener.set_nonblocking(true)?;
            let file = std::fs::symlink_metadata(path)?;
            Ok(ControlSocket { path: path.to_owned(), listener, inode: (file.dev(), file.ino()) })
        };
        bound().with_context(|| what("create")).with_context(|| hint("see `control.socket`"))
    }

    /// To accept from.
    ///
    /// # Errors
    /// The kernel's.
    pub fn listener(&self) -> io::Result<UnixListener> {
        UnixListener::from_std(self.listener.try_clone()?)
    }

    /// Removes it, unless somebody has put another one there.
    pub fn remove(&self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|file| (file.dev(), file.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("cannot remove the control socket: {error}");
        }
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        // Also when the start fails after it was made.
        self.remove();
    }
}

fn pid_of(running: UnixStream) -> String {
    let pid = rustix::net::sockopt::socket_peercred(&running).ok().map(|peer| peer.pid);
    pid.map_or(String::new(), |pid| format!(" (pid {pid})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_may_enter_the_directory_that_is_made_for_it_and_open_it() {
        let home = tempfile::tempdir().expect("a directory");
        let path = home.path().join("run/control.sock");
        let socket = ControlSocket::bind(&path).expect("binds");
        let mode = |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!((mode(&home.path().join("run")), mode(&path)), (0o755, 0o666));
        socket.remove();
        assert!(!path.exists());
    }
}
