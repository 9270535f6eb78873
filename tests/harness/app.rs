//! The application of one color, as its container runs it: a WSGI program under uwsgi behind nginx.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{DEADLINE, Process, Raw, Response, need, wait_until};

/// What is rendered and run; see the files there.
const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/app");

/// A running nginx and uwsgi. Pages: `/`, `/ready`, `/echo`, `/slow`, `/hold`, `/stream`, `/sse`, `/status/NNN`,
/// `/big`, `/cookies`, `/redirect` and `/static/{page.html,style.css,image.png}`; each answer has `X-Color`.
pub(crate) struct App {
    color: String,
    dir: PathBuf,
    nginx: Option<Process>,
    uwsgi: Option<Process>,
}

impl App {
    /// Starts it with everything it has in `dir/COLOR`, and waits until it answers.
    pub(crate) fn start(dir: &Path, color: &str) -> App {
        let dir = dir.join(color);
        std::fs::create_dir_all(dir.join("marks")).expect("a directory for the application");
        let mut app = App { color: color.to_owned(), dir, nginx: None, uwsgi: None };
        assert!(app.socket().as_os_str().len() < 100, "{} is too long for a unix socket", app.socket().display());
        app.write_nginx_config();
        app.restart();
        app
    }

    /// The color's socket: what bgproxy's `backends.COLOR` is.
    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("nginx.sock")
    }

    /// The pid of nginx's master.
    pub(crate) fn pid(&self) -> u32 {
        self.nginx.as_ref().expect("nginx runs").pid()
    }

    /// Kills nginx, its workers too; the socket file stays behind, as after `docker kill`.
    pub(crate) fn kill9_nginx(&mut self) {
        self.nginx.take().expect("nginx runs").kill9();
    }

    /// Starts what does not run, as a new container would: old socket files are removed first.
    pub(crate) fn restart(&mut self) {
        if self.uwsgi.is_none() {
            self.start_uwsgi();
        }
        if self.nginx.is_none() {
            self.start_nginx();
        }
    }

    /// Ends nginx in an orderly way, so that its socket file goes, and uwsgi.
    pub(crate) fn stop(&mut self) {
        if let Some(mut nginx) = self.nginx.take() {
            nginx.terminate();
        }
        if let Some(mut uwsgi) = self.uwsgi.take() {
            // Asked politely it takes a second at the least, and sometimes more than five.
            uwsgi.kill9();
        }
    }

    /// Waits until the request with `id=ID` has reached the application.
    #[track_caller]
    pub(crate) fn wait_entered(&self, id: &str) {
        let what = format!("request {id} at {}", self.color);
        wait_until(&what, DEADLINE, || self.has_entered(id));
    }

    /// Whether the request with `id=ID` has reached the application.
    pub(crate) fn has_entered(&self, id: &str) -> bool {
        self.mark(id).exists()
    }

    /// Lets a request to `/hold?id=ID` (or the last chunk of `/stream?id=ID`) go on.
    pub(crate) fn release(&self, id: &str) {
        std::fs::write(self.mark(&format!("{id}.go")), "").expect("a mark");
    }

    /// Makes `/ready` answer 200, or 503 with "migrating the database".
    pub(crate) fn set_ready(&self, ready: bool) {
        let mark = self.mark("unready");
        if ready { drop(std::fs::remove_file(mark)) } else { std::fs::write(mark, "").expect("a mark") }
    }

    /// One GET through nginx's socket, past the door.
    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Response {
        Raw::get(self.socket(), path)
    }

    fn mark(&self, name: &str) -> PathBuf {
        self.dir.join("marks").join(name)
    }

    fn start_uwsgi(&mut self) {
        let socket = self.dir.join("uwsgi.sock");
        let _ = std::fs::remove_file(&socket);
        let mut command = Command::new(need("uwsgi-core"));
        command.args(["--plugin", "python3", "--master", "--die-on-term", "--need-app", "--disable-logging"]);
        // Enough at once for a load of 32 connections with a few held requests beside it.
        command.args(["--processes", "2", "--threads", "20", "--listen", "128", "--buffer-size", "65535"]);
        command.arg("--socket").arg(&socket);
        command.arg("--wsgi-file").arg(Path::new(SOURCES).join("wsgi.py"));
        command.env("COLOR", &self.color).env("MARKS", self.dir.join("marks")).env("PYTHONDONTWRITEBYTECODE", "1");
        let name = format!("uwsgi {}", self.color);
        let mut uwsgi = Process::start(&name, &mut command, &self.dir.join("uwsgi.log"));
        uwsgi.wait_for("its socket", || if socket.exists() { Ok(()) } else { Err("no socket") });
        self.uwsgi = Some(uwsgi);
    }

    fn start_nginx(&mut self) {
        let _ = std::fs::remove_file(self.socket());
        let mut command = Command::new(need("nginx"));
        // `-e` and `-p`: nginx opens its built-in log under its prefix before it reads the configuration.
        command.arg("-e").arg("stderr").arg("-p").arg(&self.dir).arg("-c").arg(self.dir.join("nginx.conf"));
        let name = format!("nginx {}", self.color);
        let mut nginx = Process::start(&name, &mut command, &self.dir.join("nginx.log"));
        // uwsgi listens before it has loaded the program: only an answer says that both are up.
        nginx.wait_for("an answer", || match Raw::try_get(self.socket(), "/") {
            Ok(response) if response.status == 200 => Ok(()),
            Ok(response) => Err(format!("status {}", response.status)),
            Err(why) => Err(why.to_string()),
        });
        self.nginx = Some(nginx);
    }

    fn write_nginx_config(&self) {
        let template = std::fs::read_to_string(Path::new(SOURCES).join("nginx.conf")).expect("the template");
        // Started as root its workers would be another user, who cannot enter the test's directory.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let config = template
            .replace("@USER@", user)
            .replace("@COLOR@", &self.color)
            .replace("@DIR@", self.dir.to_str().expect("a readable path"))
            .replace("@STATIC@", &format!("{SOURCES}/static"));
        std::fs::write(self.dir.join("nginx.conf"), config).expect("nginx.conf");
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop();
    }
}
