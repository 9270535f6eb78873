//! How is Caddy configured? With a certificate that is there, and its API on a unix socket; the rest is its own choice.

use std::fs;
use std::process::Command;

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, secure) = (free_address()?, free_address()?);
    let home = site.home("caddy")?;
    let here = home.display();
    let log = if who.setup.log { format!("log {{\noutput file {here}/access.log\n}}\n") } else { String::new() };
    let echo = who.setup.echo.as_ref().map(|echo| format!("reverse_proxy /echo unix/{}\n", echo.display()));
    let echo = echo.unwrap_or_default();
    let serve = format!(
        "bind 127.0.0.1\n{log}{echo}request_header X-Request-Id {{http.request.uuid}}\n\
         reverse_proxy unix/{} {{\nheader_up X-Real-IP {{remote_host}}\n\
         transport http {{\nkeepalive_idle_conns_per_host 512\n}}\n}}\n",
        site.socket("blue").display()
    );
    // It has an authority of its own for `localhost`, and would have all of this host trust it.
    let config = format!(
        "# with GOMAXPROCS={}\n{{\nadmin unix/{here}/admin.sock\nauto_https off\nskip_install_trust\n\
         default_sni {HOST}\nservers {{\nprotocols h1 h2 h2c\n}}\n}}\n\
         http://{HOST}:{} {{\n{serve}}}\n\
         https://{HOST}:{}, https://localhost:{} {{\ntls {} {}\n{serve}}}\n",
        who.setup.workers,
        clear.port(),
        secure.port(),
        secure.port(),
        site.certificate.cert.display(),
        site.certificate.key.display(),
    );
    let file = home.join("Caddyfile");
    fs::write(&file, &config)?;
    let mut command = Command::new(&who.program);
    // It writes what it was last told into these.
    command.env("XDG_CONFIG_HOME", &home).env("XDG_DATA_HOME", &home).env("GOMAXPROCS", who.setup.workers.to_string());
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file);
    let process = Running::start(&mut command, &home, "caddy")?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(clear), secure: Some(secure), home, config })
}
