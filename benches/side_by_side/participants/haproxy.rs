//! How is HAProxy configured? As its manual recommends it: one process with threads, kept connections to the backend.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{Participant, Who, free_address};
use crate::process::Running;
use crate::site::{HOST, Site, host};

pub(super) fn start(who: &Who, site: &Site) -> anyhow::Result<Participant> {
    let (clear, h2c, secure) = (free_address()?, free_address()?, free_address()?);
    let home = site.home("haproxy")?;
    // Its standard output is a file.
    let log = if who.setup.log { " log stdout format raw local0\n option httplog\n" } else { "" };
    let (here, changing) = (home.display(), who.setup.changing);
    let stats = if changing { format!(" stats socket {here}/stats.sock level admin\n") } else { String::new() };
    let route = if changing {
        let entry = |service| format!("{} {}\n", host(service), backend(service));
        fs::write(home.join("hosts.map"), (0..who.setup.services).map(entry).collect::<String>())?;
        format!("%[req.hdr(host),field(1,:),lower,map_str({here}/hosts.map)]")
    } else {
        format!("blue if {{ req.hdr(host),field(1,:) -i {HOST} }}")
    };
    let to_echo = if who.setup.echo.is_some() { " use_backend echo if { path /echo }\n" } else { "" };
    let mut config = format!(
        "global\n nbthread {}\n maxconn 8000\n{stats}\
         defaults\n mode http\n timeout connect 2s\n timeout client 60s\n timeout server 60s\n\
         frontend door\n bind {clear}\n bind {h2c} proto h2\n bind {secure} ssl crt {} alpn h2,http/1.1\n{log}\
         \x20unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid\n unique-id-header X-Request-Id\n\
         {to_echo} use_backend {route}\n",
        who.setup.workers,
        site.certificate.both.display(),
    );
    for service in 0..who.setup.services {
        config += &section(&backend(service), &site.socket("blue"));
    }
    if changing {
        config += &section("green", &site.socket("green"));
    }
    if let Some(echo) = &who.setup.echo {
        config += &format!("backend echo\n timeout tunnel 1h\n server echo unix@{}\n", echo.display());
    }
    let file = home.join("haproxy.cfg");
    fs::write(&file, &config)?;
    // With a master process, which is told to reload.
    let mode = if changing { "-W" } else { "-db" };
    let process = Running::start(Command::new(&who.program).arg(mode).arg("-f").arg(file), &home, "haproxy")?;
    Ok(Participant { who: who.clone(), process, clear, h2c: Some(h2c), secure: Some(secure), home, config })
}

/// What a service's backend is called; the first one's is a color, as that is what is switched.
fn backend(service: u32) -> String {
    if service == 0 { "blue".to_owned() } else { format!("s{service}") }
}

/// A backend.
fn section(name: &str, socket: &Path) -> String {
    format!(
        "backend {name}\n http-reuse always\n option forwardfor\n http-request set-header X-Real-IP %[src]\n\
         \x20http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20server {name} unix@{}\n",
        socket.display()
    )
}
