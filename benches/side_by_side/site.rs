//! What do all participants have in common? A directory, the backend behind two sockets, and a certificate.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::certificate::Certificate;
use crate::participants::answer;
use crate::process::{Running, need};

/// The host that the service has; requests say it.
pub(crate) const HOST: &str = "bench.test";

/// The host of another service; the first one has [`HOST`].
pub(crate) fn host(service: u32) -> String {
    if service == 0 { HOST.to_owned() } else { format!("s{service}.{HOST}") }
}

/// The files that the backend has, and how long they are.
pub(crate) const PAGES: [(&str, usize); 3] = [("", 612), ("16k", 16 << 10), ("1m", 1 << 20)];

/// What there is before anybody takes part.
pub(crate) struct Site {
    pub(crate) certificate: Certificate,
    pub(crate) nginx: PathBuf,
    /// Ended before the directory goes.
    _backend: Running,
    dir: TempDir,
}

impl Site {
    pub(crate) fn new() -> anyhow::Result<Site> {
        let nginx = need("nginx", "nginx-light")?;
        let dir = tempfile::Builder::new().prefix("bgproxy-bench-").tempdir_in("/tmp")?;
        let certificate = Certificate::new(dir.path())?;
        let mut backend = Running::nginx(&nginx, dir.path(), "backend", &backend(dir.path())?)?;
        let sockets = ["blue", "green"].map(|color| socket(dir.path(), color));
        backend.wait_for(|| sockets.iter().all(|socket| answer(socket.as_path())))?;
        Ok(Site { certificate, nginx, _backend: backend, dir })
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Where a color of the backend listens.
    pub(crate) fn socket(&self, color: &str) -> PathBuf {
        socket(self.dir(), color)
    }

    /// A new directory of this name, or of one with a number where there is one already.
    pub(crate) fn home(&self, name: &str) -> anyhow::Result<PathBuf> {
        let places =
            (0..).map(|number| self.dir().join(if number == 0 { name.to_owned() } else { format!("{name}-{number}") }));
        let home = { places }.find(|place| !place.exists()).context("no name is left")?;
        fs::create_dir(&home)?;
        Ok(home)
    }
}

fn socket(dir: &Path, color: &str) -> PathBuf {
    dir.join("sockets").join(format!("{color}.sock"))
}

/// One nginx plays both colors; answers say which one it was. It takes what is uploaded, and throws it away.
///
/// `return` alone would answer before it has read the body. What passes it on has read it all; the body stays behind.
fn backend(dir: &Path) -> anyhow::Result<String> {
    // Not beside the sockets: bgproxy watches their directory, and would be told of every page that nginx opens.
    let pages = dir.join("pages");
    fs::create_dir(&pages)?;
    fs::create_dir(dir.join("sockets"))?;
    for (name, size) in PAGES {
        let name = if name.is_empty() { "index.html" } else { name };
        fs::write(pages.join(name), format!("{}\n", "x".repeat(size - 1)))?;
    }
    let pages = pages.display();
    let servers = ["blue", "green"].map(|color| {
        let socket = socket(dir, color).display().to_string();
        format!(
            "upstream {color} {{ server unix:{socket}; keepalive 512; keepalive_requests 1000000; }}\n\
             server {{ listen unix:{socket}; root {pages}; add_header X-Color {color};\n\
             location = /upload {{ proxy_pass http://{color}/taken; proxy_pass_request_body off;\n\
             proxy_set_header Content-Length \"\"; proxy_set_header Connection \"\"; }}\n\
             location = /taken {{ return 200 \"taken\\n\"; }} }}\n",
        )
    });
    Ok(format!(
        "worker_processes 2;\nclient_max_body_size 0; client_body_buffer_size 2m; proxy_http_version 1.1;\n\
         open_file_cache max=100; open_file_cache_valid 1h;\n\
         keepalive_timeout 1h; sendfile on; tcp_nopush on;\n{}",
        servers.concat()
    ))
}
